"""What every router must hold, as a test suite: subclass `RouterContract`, and say what your router shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from preview_proxy import Preview, Routed, Router
from preview_proxy.errors import Misdirected

# What a `Host` may hold after parsing, or what a router for other hosts may be asked.
HOSTILE = (
    "localhost",
    "127.0.0.1",
    "a" * 63,
    ".".join(["a" * 60] * 4),
    "0-0.example.com",
    "99999999999999999999-a.example.com",
    "xn--80ak6aa92e.com",
    "_.example.com",
    "example.com:65535",
)
MALFORMED = (b"", b" ", b"\xff\xfe", b"a" * 100_000, b"[::1", b"a\x00b", b"a b", b"user@host", b"*", b"..")


class RouterContract(ABC):
    """The tests that a router has to pass. They are `async`, and need no more of pytest than that it awaits them."""

    shown: Collection[tuple[str, Preview]]
    """Authorities (``host`` or ``host:port``, as a browser sends them) and what they show; one at least."""
    foreign: Collection[str]
    """Authorities that the customer's own app answers."""
    misdirected: Collection[str] = ()
    """Authorities inside a preview zone that name no preview."""

    @abstractmethod
    def router(self) -> Router:
        """A router, fresh each time."""

    async def test_each_host_shows_its_preview_at_its_own_origin(self) -> None:
        router = self.router()
        assert self.shown, "name an authority that shows a preview"
        for authority, preview in self.shown:
            routed = await router(authority)
            assert routed is not None, f"{authority} shows nothing"
            assert routed.preview == preview, f"{authority} shows {routed.preview}"
            assert_public(routed, authority)

    async def test_the_answer_is_the_same_every_time(self) -> None:
        router = self.router()
        for authority, _ in self.shown:
            assert await router(authority) == await router(authority)

    async def test_the_apps_own_hosts_pass(self) -> None:
        router = self.router()
        assert self.foreign, "name a host of the app's own"
        for authority in self.foreign:
            assert await router(authority) is None, f"{authority} is taken from the app"
            assert not router.claims(authority.encode()), f"{authority} is claimed from the app"

    async def test_a_host_of_the_zone_that_names_no_preview_never_reaches_the_app(self) -> None:
        router = self.router()
        for authority in self.misdirected:
            assert await self._answer(router, authority) is Misdirected, f"{authority} is not Misdirected"

    async def test_the_way_back_leads_to_the_same_preview(self) -> None:
        router = self.router()
        for _, preview in self.shown:
            public = router.host_for(preview)
            if public is not None:
                routed = await router(public.authority)
                assert routed is not None and routed.preview == preview, f"{public} does not show {preview}"

    async def test_a_host_that_only_resembles_a_previews_does_not_show_it(self) -> None:
        """At another port, below it, above it, or with more in front: other names, which others may own."""
        router = self.router()
        for authority, preview in self.shown:
            host, _, port = authority.partition(":")
            colon = f":{port}" if port else ""
            for other in (f"{host}:1", f"{authority}.attacker.example", f"x.{authority}", f"{host}x{colon}"):
                routed = await self._answer(router, other)
                if isinstance(routed, Routed):
                    assert routed.preview != preview, f"{other} shows {preview}"
                    assert_public(routed, other)

    async def test_no_host_makes_it_fail(self) -> None:
        router = self.router()
        for authority in HOSTILE:
            routed = await self._answer(router, authority)
            if isinstance(routed, Routed):
                assert_public(routed, authority)
        for host in MALFORMED:
            assert router.claims(host) in (True, False)

    @staticmethod
    async def _answer(router: Router, authority: str) -> Routed | type[Misdirected] | None:
        """What the router says. Anything but `Misdirected` that it raises is a failure."""
        try:
            return await router(authority)
        except Misdirected:
            return Misdirected


def assert_public(routed: Routed, authority: str) -> None:
    """The public origin is the one that was asked for, and one whose cookies browsers keep safe."""
    assert isinstance(routed, Routed), f"{type(routed).__name__} is no Routed"
    assert routed.public.authority == authority, f"{authority} is said to be {routed.public}"
    secure = routed.public.scheme == "https" or routed.public.is_loopback
    assert secure, f"{routed.public} is plain http"

"""The routers hold their contract, and the contract finds each breach of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from preview_proxy import HostPattern, HostTable, Origin, Preview, Routed, Router, first_of
from preview_proxy.errors import Misdirected
from preview_proxy.testing import RouterContract

pytestmark = pytest.mark.anyio

SHOP = Preview("mch_shop", 3000)


class TestHostPattern(RouterContract):
    shown = (("3000-mch_a1.acme-previews.dev", Preview("mch_a1", 3000)), ("80-b.acme-previews.dev", Preview("b", 80)))
    foreign = ("app.acme.com", "acme-previews.com")
    misdirected = ("acme-previews.dev", "www.acme-previews.dev", "0-a.acme-previews.dev", "3000-a.acme-previews.dev:81")

    def router(self) -> Router:
        return HostPattern("{port}-{machine}.acme-previews.dev")


class TestLocalHostPattern(RouterContract):
    shown = (("mch_a1.preview.localhost:8000", Preview("mch_a1", 3000)),)
    foreign = ("app.localhost:8000",)
    misdirected = ("mch_a1.preview.localhost", "a.b.preview.localhost:8000")

    def router(self) -> Router:
        return HostPattern("{machine}.preview.localhost", scheme="http", port=8000, default_port=3000)


class TestHostTable(RouterContract):
    shown = (("shop.example.com", SHOP),)
    foreign = ("app.acme.com",)
    misdirected = ("shop.example.com:8443",)

    def router(self) -> Router:
        return HostTable(dict(self.shown))


class TestHostLookup(TestHostTable):
    def router(self) -> Router:
        async def lookup(host: str) -> Preview | None:
            return dict(self.shown).get(host)

        return HostTable(lookup)


class TestFirstOf(RouterContract):
    shown = (("shop.example.com", SHOP), ("3000-mch_a1.acme-previews.dev", Preview("mch_a1", 3000)))
    foreign = ("app.acme.com",)
    misdirected = ("www.acme-previews.dev",)

    def router(self) -> Router:
        return first_of(HostTable({"shop.example.com": SHOP}), HostPattern("{port}-{machine}.acme-previews.dev"))


class Own:
    """A router of one host, with something wrong as a subclass says."""

    async def __call__(self, authority: str) -> Routed | None:
        if authority == "shop.example.com":
            return Routed(SHOP, Origin("https", "shop.example.com", 443))
        if authority.endswith(".zone.example.com"):
            raise Misdirected
        return None

    def host_for(self, preview: Preview) -> Origin | None:
        return None

    def claims(self, host: bytes) -> bool:
        return False


class AnotherPreview(Own):
    async def __call__(self, authority: str) -> Routed | None:
        routed = await super().__call__(authority)
        return routed and routed._replace(preview=Preview("mch_shop", 4000))


class AnotherOrigin(Own):
    async def __call__(self, authority: str) -> Routed | None:
        routed = await super().__call__(authority)
        return routed and routed._replace(public=Origin("https", "www.example.com", 443))


class PlainHttp(Own):
    async def __call__(self, authority: str) -> Routed | None:
        routed = await super().__call__(authority)
        return routed and routed._replace(public=Origin("http", "shop.example.com", 80))


class EverythingIsOurs(Own):
    async def __call__(self, authority: str) -> Routed | None:
        host, _, port = authority.partition(":")
        return Routed(SHOP, Origin("https", host, int(port or 443)))


class EveryPort(Own):
    async def __call__(self, authority: str) -> Routed | None:
        return await super().__call__(authority.partition(":")[0])


class ClaimsEverything(Own):
    def claims(self, host: bytes) -> bool:
        return True


class FallsThrough(Own):
    async def __call__(self, authority: str) -> Routed | None:
        return None if "zone" in authority else await super().__call__(authority)


class WrongWayBack(Own):
    def host_for(self, preview: Preview) -> Origin | None:
        return Origin("https", "app.acme.com", 443)


class Fickle(Own):
    asked = 0

    async def __call__(self, authority: str) -> Routed | None:
        self.asked += 1
        routed = await super().__call__(authority)
        return routed and routed._replace(preview=replace(SHOP, generation=self.asked))


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (AnotherPreview, "test_each_host_shows_its_preview_at_its_own_origin"),
        (AnotherOrigin, "test_each_host_shows_its_preview_at_its_own_origin"),
        (PlainHttp, "test_each_host_shows_its_preview_at_its_own_origin"),
        (Fickle, "test_the_answer_is_the_same_every_time"),
        (EverythingIsOurs, "test_the_apps_own_hosts_pass"),
        (ClaimsEverything, "test_the_apps_own_hosts_pass"),
        (FallsThrough, "test_a_host_of_the_zone_that_names_no_preview_never_reaches_the_app"),
        (WrongWayBack, "test_the_way_back_leads_to_the_same_preview"),
        (EverythingIsOurs, "test_a_host_that_only_resembles_a_previews_does_not_show_it"),
        (EveryPort, "test_a_host_that_only_resembles_a_previews_does_not_show_it"),
    ],
)
async def test_a_breach_is_found(kind: type[Own], test: str) -> None:
    class Contract(RouterContract):
        shown = (("shop.example.com", SHOP),)
        foreign = ("app.acme.com",)
        misdirected = ("x.zone.example.com",)

        def router(self) -> Router:
            return kind()

    with pytest.raises(AssertionError):
        await getattr(Contract(), test)()


async def test_a_router_that_raises_for_some_host_is_found() -> None:
    class Raises(Own):
        async def __call__(self, authority: str) -> Routed | None:
            if int(authority.partition("-")[0]) > 65535:  # of a host that has no number
                return None
            return await super().__call__(authority)

    class Contract(RouterContract):
        shown = (("shop.example.com", SHOP),)
        foreign = ("app.acme.com",)

        def router(self) -> Router:
            return Raises()

    with pytest.raises(ValueError, match="invalid literal"):
        await Contract().test_no_host_makes_it_fail()

"""Who passes: the same answers for HTTP and for WebSockets, and nothing spent upstream before a yes."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import itsdangerous
import jwt
import pytest
from starlette.requests import HTTPConnection

from preview_proxy import (
    CookieSession,
    HostPattern,
    JWTSession,
    Limits,
    Policy,
    Preview,
    PreviewProxy,
    Revocation,
    Session,
    StarletteSession,
    Target,
    Tickets,
)
from preview_proxy.core.models import Origin
from preview_proxy.providers.static import fixed_target
from tests.test_visit import Headers, Sent, call, scope_of
from tests.world import EMBEDDER, MACHINE, OWNER, SECRET, World, world

pytestmark = pytest.mark.anyio

HOST = "3000-m1.previews.example"
PUBLIC = Origin("https", HOST, 443)
PREVIEW = Preview("m1", 3000)
EMBEDDERS = ["https://app.example"]
TOKEN = "canary-provider-token"
KEY = "the key of the customer's tokens: at least 32 bytes"
KINDS = pytest.mark.parametrize("kind", ["http", "websocket"])


class Upstream(httpx.AsyncBaseTransport):
    """Counts what is spent: what is asked of the provider, and what is sent to the machine."""

    def __init__(self) -> None:
        self.resolved: list[Preview] = []
        self.requests: list[httpx.Request] = []

    async def resolve(self, preview: Preview) -> Target:
        self.resolved.append(preview)
        return fixed_target("https://up.example", http_credentials={"x-token": TOKEN})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"from the machine"))

    @property
    def untouched(self) -> bool:
        return not (self.resolved or self.requests)


async def owner_only(subject: str, preview: Preview) -> bool:
    return subject == OWNER and preview.machine == "m1"


@dataclass
class Door:
    """A proxy with everything behind it counted."""

    authorize: Any = owner_only
    session: Any = None
    tickets: Tickets | None = field(default_factory=lambda: Tickets(SECRET, EMBEDDERS))
    upstream: Upstream = field(default_factory=Upstream)

    def __post_init__(self) -> None:
        self.proxy = PreviewProxy(
            router=HostPattern("{port}-{machine}.previews.example"),
            provider=self.upstream,
            authorize=self.authorize,
            session=self.session,
            tickets=self.tickets,
            policy=Policy(limits=Limits(check_timeout=0.2)),
            transport=self.upstream,
        )

    def gate(self, subject: str = OWNER, *, preview: Preview = PREVIEW, tickets: Tickets | None = None) -> bytes:
        tickets = tickets or self.tickets
        assert tickets is not None
        return tickets.gate(origin=PUBLIC, preview=preview, session=Session(subject))[0].encode()

    async def knock(
        self, kind: str, headers: Headers = (), *, host: str = HOST, origin: bytes | None = b"https://" + HOST.encode()
    ) -> Sent:
        """A request or a handshake of the preview's own page."""
        own = [(b"origin", origin)] if origin else []
        return await call(self.proxy, scope_of(kind, host=host, headers=[*own, *headers]))


def gate_cookie(*values: bytes) -> Headers:
    return [(b"cookie", b"; ".join(b"__Host-Http-pp=" + value for value in values))]


# --- the gate cookie -----------------------------------------------------------------------------------------------


@KINDS
async def test_w01_the_owner_passes(kind: str) -> None:
    door = Door()
    answer = await door.knock(kind, gate_cookie(door.gate()))
    assert (answer.status, answer.body) == (200, b"from the machine")
    assert door.upstream.resolved == [PREVIEW]


@KINDS
@pytest.mark.parametrize(
    "headers",
    [
        [],
        gate_cookie(b""),
        gate_cookie(b"nonsense"),
        gate_cookie(b"\xff\xfe"),
        [(b"cookie", b"__Host-Http-pp")],
        [(b"authorization", b"Bearer nonsense")],
    ],
)
async def test_w01_nobody_passes_without_a_session(kind: str, headers: Headers) -> None:
    door = Door()
    answer = await door.knock(kind, headers)
    assert (answer.status, answer.json()["code"]) == (401, "not_signed_in")
    assert door.upstream.untouched


@KINDS
async def test_a_gate_holds_only_where_and_for_what_it_was_made(kind: str) -> None:
    door = Door()
    foreign = Tickets("another secret, long enough too: 32 bytes", EMBEDDERS)
    past = Tickets(SECRET, EMBEDDERS, clock=lambda: time.time() - 7200)
    ticket = Tickets(SECRET, EMBEDDERS).issue(origin=PUBLIC, preview=PREVIEW, session=Session(OWNER))
    for value in (
        door.gate(tickets=foreign),
        door.gate(tickets=past),
        door.gate(preview=Preview("m1", 3001)),
        door.gate(preview=Preview("m1", 3000, generation=1)),  # the host was given to something else
        ticket.encode(),
    ):
        assert (await door.knock(kind, gate_cookie(value))).status == 401
    assert (await door.knock(kind, gate_cookie(door.gate()), host="3001-m1.previews.example")).status == 401
    assert door.upstream.untouched


@KINDS
@pytest.mark.parametrize("where", ["before", "behind"])
async def test_h08_a_planted_second_cookie_neither_opens_nor_shuts(kind: str, where: str) -> None:
    door = Door()
    values = [b"planted", door.gate()] if where == "before" else [door.gate(), b"planted"]
    assert (await door.knock(kind, gate_cookie(*values))).status == 200


@KINDS
@pytest.mark.parametrize("reverse", [False, True])
async def test_h08_gates_of_two_subjects_are_nobodys(kind: str, reverse: bool) -> None:
    door = Door()
    values = [door.gate(OWNER), door.gate("eve")]
    answer = await door.knock(kind, gate_cookie(*(values[::-1] if reverse else values)))
    assert (answer.status, answer.json()["code"]) == (400, "bad_header")
    assert door.upstream.untouched


@KINDS
async def test_two_gates_of_one_subject_pass(kind: str) -> None:
    door = Door()
    assert (await door.knock(kind, gate_cookie(door.gate(), door.gate()))).status == 200


async def test_the_check_sees_the_same_gate() -> None:
    door = Door()
    path = "/.well-known/preview-proxy/check"
    for headers, status in ((gate_cookie(door.gate()), 204), (gate_cookie(b"planted"), 401), ([], 401)):
        assert (await call(door.proxy, scope_of(host=HOST, path=path, headers=headers))).status == status


@KINDS
async def test_a_gate_is_read_from_its_exact_name_only(kind: str) -> None:
    door = Door()
    for name in (b"__host-http-pp", b"\xa0__Host-Http-pp", b"__Host-Http-pp2", b"pp-development"):
        assert (await door.knock(kind, [(b"cookie", name + b"=" + door.gate())])).status == 401
    quoted = b'__Host-Http-pp="' + door.gate() + b'"'
    assert (await door.knock(kind, [(b"cookie", quoted)])).status == 401


# --- the customer's own session ------------------------------------------------------------------------------------


def starlette_cookie(content: object) -> bytes:
    return itsdangerous.TimestampSigner(KEY).sign(base64.b64encode(json.dumps(content).encode()))


def token(subject: str = OWNER, **claims: Any) -> bytes:
    now = int(time.time())
    claims = {"sub": subject, "iat": now, "exp": now + 600, "aud": "app", "iss": "https://id.example", **claims}
    return jwt.encode(claims, KEY, algorithm="HS256").encode()


def jwt_session(**where: Any) -> JWTSession:
    return JWTSession(key=KEY, algorithms=["HS256"], audience="app", issuer="https://id.example", **where)


async def lookup(value: str) -> str | None:
    return {"id-of-ada": OWNER, "id-of-eve": "eve"}.get(value)


async def plain(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-user")


@dataclass(frozen=True)
class Case:
    session: Any
    header: bytes
    of: Callable[[str], bytes]
    """The header's value for a subject."""


CASES = {
    "jwt in a header": Case(jwt_session(header="authorization"), b"authorization", lambda s: b"Bearer " + token(s)),
    "jwt in a cookie": Case(jwt_session(cookie="jwt"), b"cookie", lambda s: b"jwt=" + token(s)),
    "starlette": Case(
        StarletteSession(secret_key=KEY), b"cookie", lambda s: b"session=" + starlette_cookie({"user_id": s})
    ),
    "cookie": Case(CookieSession("sid", lookup), b"cookie", lambda s: b"sid=id-of-" + s.encode()),
    "plain function": Case(plain, b"x-user", str.encode),
}
SESSIONS = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


# --- whose request it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        None,
        b"null",
        b"https://evil.example",
        b"https://app.example",  # who embeds a preview still may not speak for it
        b"https://3001-m1.previews.example",
        b"https://previews.example",
        b"https://3000-m1.previews.example.evil.example",
        b"https://evil3000-m1.previews.example",
        b"https://3000-m1.previews.example:444",
        b"http://3000-m1.previews.example",
        b"HTTPS://3000-M1.previews.example",
        b"https://3000-m1.previews.example/",
        b"https://3000-m1.previews.example, https://evil.example",
    ],
)
async def test_w02_cookies_open_no_socket_for_another_origin(origin: bytes | None) -> None:
    door = Door(session=CASES["cookie"].session)
    for headers in (gate_cookie(door.gate()), [(b"cookie", b"sid=id-of-ada")]):
        answer = await door.knock("websocket", headers, origin=origin)
        assert (answer.status, answer.json()["code"]) == (403, "cross_site")
    assert door.upstream.untouched


async def test_w02_two_origins_are_none() -> None:
    door = Door()
    own = b"https://" + HOST.encode()
    assert (await door.knock("websocket", [(b"origin", own), *gate_cookie(door.gate())], origin=own)).status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([(b"origin", b"https://" + HOST.encode())], True),
        ([(b"sec-fetch-site", b"same-origin")], True),
        ([], False),
        ([(b"origin", b"null")], False),
        ([(b"origin", b"https://evil.example"), (b"sec-fetch-site", b"same-origin")], False),
        ([(b"sec-fetch-site", b"cross-site")], False),
        ([(b"sec-fetch-site", b"none")], False),
        ([(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")], False),
    ],
)
async def test_a13_a_cookie_changes_nothing_for_another_site(method: str, headers: Headers, passes: bool) -> None:
    door = Door()
    scope = scope_of(host=HOST, method=method, headers=[*headers, *gate_cookie(door.gate())])
    answer = await call(door.proxy, scope)
    assert answer.status == (200 if passes else 403)
    assert door.upstream.untouched is not passes


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a13_other_sites_may_only_navigate(method: str) -> None:
    door = Door()
    gate = gate_cookie(door.gate())
    sites = [None, "same-origin", "none", "same-site", "cross-site", "odd"]
    modes = [None, "navigate", "no-cors", "cors"]
    destinations = [None, "document", "iframe", "frame", "image", "script", "empty", "object"]
    for site, mode, destination in itertools.product(sites, modes, destinations):
        names = {b"sec-fetch-site": site, b"sec-fetch-mode": mode, b"sec-fetch-dest": destination}
        headers = [(name, value.encode()) for name, value in names.items() if value]
        known = site in ("same-site", "cross-site")
        navigates = mode == "navigate" and destination in ("document", "iframe", "frame")
        passes = site in (None, "same-origin", "none") or (known and navigates)
        answer = await call(door.proxy, scope_of(host=HOST, method=method, headers=[*headers, *gate]))
        assert answer.status == (200 if passes else 403), (site, mode, destination)


@KINDS
async def test_a_token_in_a_header_is_sent_on_purpose_so_any_origin_may(kind: str) -> None:
    case = CASES["jwt in a header"]
    door = Door(session=case.session)
    headers = [(case.header, case.of(OWNER))]
    assert (await door.knock(kind, headers, origin=b"https://evil.example")).status == 200
    assert (await door.knock(kind, headers, origin=None)).status == 200
    with_gate = [*headers, *gate_cookie(door.gate())]
    if kind == "websocket":
        assert (await door.knock(kind, with_gate, origin=b"https://evil.example")).status == 403


async def test_what_a_plain_function_reads_may_be_a_cookie() -> None:
    door = Door(session=plain)
    assert (await door.knock("websocket", [(b"x-user", OWNER.encode())], origin=b"https://evil.example")).status == 403


# --- all of it, on the wire ----------------------------------------------------------------------------------------


def handshake(w: World, **headers: str) -> bytes:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Origin": w.origin,
    }
    return w.request("/ws", headers={**upgrade, **headers})


@KINDS
async def test_a09_nothing_is_spent_before_yes(kind: str) -> None:
    async with world() as w:
        eve = Tickets(SECRET, [EMBEDDER]).gate(
            origin=Origin.parse(w.origin), preview=Preview(MACHINE, 3000), session=Session("eve")
        )
        for cookie, status in (("", 401), ("pp-development=x", 401), (f"pp-development={eve[0]}", 404)):
            request = handshake(w, Cookie=cookie) if kind == "websocket" else w.request(headers={"Cookie": cookie})
            assert (await w.raw(request)).status == status
        assert (w.nullspace.api_requests, w.nullspace.edge_raw, w.dev.connections) == ([], b"", [])
        assert w.reached_app == []


@KINDS
async def test_h06_the_gate_and_the_session_never_cross_the_wire_upstream(kind: str) -> None:
    session = jwt_session(header="authorization", cookie="jwt")
    async with world(session=session) as w:
        credential = token().decode()
        cookie = f"a=1; jwt={credential}; pp-development={w.gate}; b=2"
        fields = {"Cookie": cookie, "Authorization": f"Bearer {credential}", "X-Own": "1"}
        request = handshake(w, **fields) if kind == "websocket" else w.request("/echo", headers=fields)
        if kind == "websocket":
            async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                await stream.send(request)
                with anyio.fail_after(5):
                    await w.dev.wait_for(lambda dev: bool(dev.received))
                    assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        else:
            assert (await w.raw(request)).status == 200
        assert w.dev.received[-1].values(b"cookie") == [b"a=1; b=2"]
        upstream = b"".join([w.nullspace.edge_raw, *w.dev.raw])
        assert credential.encode() not in upstream
        assert w.gate.encode() not in upstream


async def test_v10_what_voids_everything_of_before_has_authorize_asked_anew() -> None:
    asked: list[str] = []

    async def authorize(subject: str, preview: Preview) -> bool:
        asked.append(subject)
        return True

    door = Door(authorize=authorize)
    gate = gate_cookie(door.gate())
    assert [(await door.knock("http", gate)).status for _ in range(2)] == [200, 200]
    assert asked == [OWNER]
    door.proxy._end(Revocation(None, None, None, time.time()))
    assert (await door.knock("http", gate)).status == 401
    assert (await door.knock("http", gate_cookie(door.gate()))).status == 200
    assert asked == [OWNER] * 2

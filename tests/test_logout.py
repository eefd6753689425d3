"""Signing out at a preview's host: the cookie goes, and so does all that its login has open."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest
from starlette.requests import HTTPConnection

from preview_proxy import Preview, Session, Tickets
from preview_proxy.core.models import Origin
from tests.test_endpoints import APP, CHECK, CORS, FROM_APP, PRIVATE, PUBLIC
from tests.test_gate import EMBEDDERS, HOST, PREVIEW, Door, gate_cookie
from tests.test_live import until
from tests.test_revoke import LOGIN, gate
from tests.test_visit import Headers, Sent, call, scope_of
from tests.transports.test_relay_websocket import closed, dial
from tests.world import EMBEDDER, OWNER, SECRET, World, world

pytestmark = pytest.mark.anyio

LOGOUT = "/.well-known/preview-proxy/logout"
GONE = b"__Host-Http-pp=; Path=/; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=0"


def value_of(ref: str, subject: str = OWNER, *, preview: Preview = PREVIEW, host: str = HOST) -> bytes:
    origin = Origin("https", host, 443)
    session = Session(subject, ref)
    return Tickets(SECRET, EMBEDDERS).gate(origin=origin, preview=preview, session=session)[0].encode()


def gate_of(ref: str, **options: Any) -> Headers:
    return gate_cookie(value_of(ref, **options))


async def sign_out(door: Door, headers: Headers = (FROM_APP,), *, method: str = "POST", cookie: Headers = ()) -> Sent:
    return await call(door.proxy, scope_of(host=HOST, path=LOGOUT, method=method, headers=[*headers, *cookie]))


async def test_e20_signing_out_byte_by_byte() -> None:
    door = Door()
    cookie = gate_of(LOGIN)
    assert (await door.knock("http", cookie)).status == 200
    answer = await sign_out(door, cookie=cookie)
    assert answer.messages == [
        {
            "type": "http.response.start",
            "status": 204,
            # the attributes that it was set with: without `Partitioned` browsers delete another cookie
            "headers": [*CORS, *PRIVATE, (b"set-cookie", GONE)],
        },
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]
    for kind in ("http", "websocket"):
        assert (await door.knock(kind, cookie)).status == 401


async def test_e20_the_login_ends_on_every_preview_and_no_other_does() -> None:
    door = Door()
    second, elsewhere = Preview("m1", 3001), "3001-m1.previews.example"
    there = gate_of(LOGIN, preview=second, host=elsewhere)
    other = gate_of("login-2")
    origin = b"https://" + elsewhere.encode()
    assert (await door.knock("http", there, host=elsewhere, origin=origin)).status == 200
    await sign_out(door, cookie=gate_of(LOGIN))
    assert (await door.knock("http", there, host=elsewhere, origin=origin)).status == 401
    assert (await door.knock("http", other)).status == 200


async def test_e20_anothers_login_of_the_same_name_goes_on() -> None:
    async def anybody(subject: str, preview: Preview) -> bool:
        return True

    door = Door(authorize=anybody)
    hers, his = gate_of("web"), gate_of("web", subject="bob")
    await sign_out(door, cookie=hers)
    assert (await door.knock("http", hers)).status == 401
    assert (await door.knock("http", his)).status == 200


@pytest.mark.parametrize("others", [("login-2", OWNER), ("login-2", "eve"), ("", "eve")])
async def test_h08_e20_of_several_gates_all_end(others: tuple[str, str]) -> None:
    async def anybody(subject: str, preview: Preview) -> bool:
        return True

    door = Door(authorize=anybody)
    gates = [value_of(LOGIN), value_of(*others)]
    assert [(await door.knock("http", gate_cookie(value))).status for value in gates] == [200, 200]
    answer = await sign_out(door, cookie=gate_cookie(*gates))
    assert (answer.status, answer.values(b"set-cookie")) == (204, [GONE])
    assert [(await door.knock("http", gate_cookie(value))).status for value in gates] == [401, 401]


async def test_e20_a_login_without_a_name_ends_on_this_preview() -> None:
    door = Door()
    cookie = gate_of("")
    await sign_out(door, cookie=cookie)
    assert (await door.knock("http", cookie)).status == 401
    assert (await door.knock("http", gate_of(""))).status == 200


@pytest.mark.parametrize("cookie", [[], gate_cookie(b"nonsense")])
async def test_e20_who_is_not_signed_in_is_signed_out_too(cookie: Headers) -> None:
    answer = await sign_out(Door(), cookie=cookie)
    assert (answer.status, answer.values(b"set-cookie")) == (204, [GONE])


@pytest.mark.parametrize(
    "origins",
    [
        [],
        [b"null"],
        [b"https://" + HOST.encode()],  # the sandbox's own pages: they would end the login on other previews too
        [b"https://app.example.evil.example"],
        [b"http://app.example"],
        [APP.encode(), APP.encode()],
    ],
)
async def test_a13_e20_only_an_embedder_signs_anybody_out(origins: list[bytes]) -> None:
    door = Door()
    cookie = gate_of(LOGIN)
    answer = await sign_out(door, [(b"origin", origin) for origin in origins], cookie=cookie)
    assert (answer.status, answer.json()["code"]) == (403, "cross_site")
    assert answer.values(b"set-cookie") == answer.values(b"access-control-allow-origin") == []
    assert (await door.knock("http", cookie)).status == 200


async def test_e20_the_preflight_and_the_methods() -> None:
    for method, status in (("OPTIONS", 204), ("GET", 405), ("PUT", 405), ("DELETE", 405)):
        answer = await sign_out(Door(), method=method, cookie=gate_of(LOGIN))
        assert (answer.status, answer.values(b"set-cookie")) == (status, [])
        assert answer.values(b"allow") == ([b"POST, OPTIONS"] if status == 405 else [])
        assert answer.values(b"access-control-allow-methods") == ([b"POST"] if status == 204 else [])


async def test_e20_without_tickets_there_is_no_gate_to_end() -> None:
    async def session(connection: HTTPConnection) -> str:
        return OWNER

    assert (await sign_out(Door(tickets=None, session=session))).status == 404


@pytest.mark.parametrize("left", [5.5, 100.0, 3599.9, 3601.0, None])
def test_a_gate_never_outlives_its_session(left: float | None) -> None:
    until = None if left is None else time.time() + left
    value, max_age = Tickets(SECRET, EMBEDDERS).gate(
        origin=PUBLIC, preview=PREVIEW, session=Session(OWNER, expires_at=until)
    )
    read = Tickets(SECRET, EMBEDDERS).read_gate(value.encode(), origin=PUBLIC, preview=PREVIEW)
    assert read is not None
    assert read.expires_at is not None
    assert read.expires_at <= min(until or float("inf"), time.time() + 3600)
    assert max_age <= min(left or 3600, 3600)


@pytest.fixture(params=["httptools", "h11"])
async def w(request: pytest.FixtureRequest) -> Any:
    async with world(http=request.param) as made:
        made.gate = gate(made)
        yield made


async def test_e20_what_is_open_ends_when_its_login_does(w: World) -> None:
    with anyio.fail_after(10):
        async with dial(w) as socket:
            await socket.send("x")
            await socket.recv()
            answer = await w.get(LOGOUT, method="POST", headers={"Origin": EMBEDDER})
            assert answer.status == 204
            assert answer.values(b"set-cookie")[0].startswith(b"pp-development=; ")
            assert await closed(socket) == (4401, "not_signed_in")
    assert (await w.get(CHECK, headers={"Origin": EMBEDDER})).status == 401
    await until(lambda: len(w.proxy._live) == 0)

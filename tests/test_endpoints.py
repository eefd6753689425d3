"""The exchange and the check, byte by byte, and that the reserved prefix is nobody else's."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import anyio
import jwt
import pytest
from starlette.types import Message

from preview_proxy import Preview, Session, Tickets, endpoints
from preview_proxy.core.models import Origin
from preview_proxy.endpoints import MAX_BODY
from tests.discretion import records
from tests.test_gate import Door, gate_cookie
from tests.test_visit import Headers, Sent, call, scope_of
from tests.world import EMBEDDER, OWNER, SECRET, World, world

pytestmark = pytest.mark.anyio

HOST = "3000-m1.previews.example"
PUBLIC = Origin("https", HOST, 443)
PREVIEW = Preview("m1", 3000)
APP = "https://app.example"
SESSION = "/.well-known/preview-proxy/session"
CHECK = "/.well-known/preview-proxy/check"
JSON = (b"content-type", b"application/json")
FROM_APP = (b"origin", APP.encode())
CORS = [
    (b"access-control-allow-origin", APP.encode()),
    (b"access-control-allow-credentials", b"true"),
    (b"vary", b"Origin"),
]
PRIVATE = [(b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer")]


def ticket(door: Door, *, subject: str = OWNER, preview: Preview = PREVIEW, origin: Origin = PUBLIC) -> str:
    assert door.tickets is not None
    return door.tickets.issue(origin=origin, preview=preview, session=Session(subject), embedder=APP)


def body(value: object) -> Message:
    return {"type": "http.request", "body": json.dumps(value).encode(), "more_body": False}


async def post(door: Door, message: Message, *more: Message, headers: Headers = (FROM_APP, JSON)) -> Sent:
    return await call(door.proxy, scope_of(host=HOST, path=SESSION, method="POST", headers=headers), message, *more)


def assert_refused(answer: Sent, status: int = 403, code: str = "ticket_refused") -> None:
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert answer.values(b"set-cookie") == []
    assert answer.values(b"cache-control") == [b"no-store"]


# --- 9.3 step 2: the exchange --------------------------------------------------------------------------------------


async def test_e08_the_preflight_byte_by_byte() -> None:
    headers = [
        FROM_APP,
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"content-type"),
    ]
    answer = await call(Door().proxy, scope_of(host=HOST, path=SESSION, method="OPTIONS", headers=headers))
    assert answer.messages == [
        {
            "type": "http.response.start",
            "status": 204,
            "headers": [
                *CORS,
                *PRIVATE,
                (b"access-control-allow-methods", b"POST"),
                (b"access-control-allow-headers", b"content-type"),
                (b"access-control-max-age", b"600"),
            ],
        },
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


async def test_e04_the_exchange_byte_by_byte() -> None:
    door = Door()
    answer = await post(door, body({"ticket": ticket(door)}))
    (set_cookie,) = answer.values(b"set-cookie")
    value = set_cookie.partition(b"=")[2].partition(b";")[0]
    assert answer.messages == [
        {
            "type": "http.response.start",
            "status": 204,
            "headers": [
                *CORS,
                *PRIVATE,
                (
                    b"set-cookie",
                    b"__Host-Http-pp="
                    + value
                    + b"; Path=/; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=3600",
                ),
            ],
        },
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]
    assert jwt.get_unverified_header(value)["typ"] == "pp-gate+jwt"
    assert (await door.knock("http", gate_cookie(value))).status == 200
    assert (await door.knock("websocket", gate_cookie(value))).status == 200


async def test_e04_over_http_on_localhost_the_cookie_has_another_name() -> None:
    async with world() as w:
        answer = await w.exchange(await w.ticket())
        (set_cookie,) = answer.values(b"set-cookie")
        assert set_cookie.startswith(b"pp-development=")
        assert set_cookie.endswith(b"; Path=/; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=3600")
        assert answer.values(b"access-control-allow-origin") == [EMBEDDER.encode()]
        assert answer.body == b""


async def test_the_gate_ends_with_the_login() -> None:
    door = Door()
    assert door.tickets is not None
    session = Session(OWNER, expires_at=time.time() + 100)
    spent = door.tickets.issue(origin=PUBLIC, preview=PREVIEW, session=session, embedder=APP)
    (set_cookie,) = (await post(door, body({"ticket": spent}))).values(b"set-cookie")
    assert 90 <= int(set_cookie.rpartition(b"=")[2]) <= 100


async def test_a_body_in_pieces_is_one_body() -> None:
    door = Door()
    whole = json.dumps({"ticket": ticket(door)}).encode()
    pieces: list[Message] = [
        {"type": "http.request", "body": whole[i : i + 50], "more_body": i + 50 < len(whole)}
        for i in range(0, len(whole), 50)
    ]
    assert (await post(door, *pieces)).status == 204


async def test_a_cookie_that_came_along_is_never_adopted() -> None:
    door = Door()
    planted = [(b"cookie", b"__Host-Http-pp=" + door.gate("eve"))]
    (set_cookie,) = (await post(door, body({"ticket": ticket(door)}), headers=[FROM_APP, JSON, *planted])).values(
        b"set-cookie"
    )
    value = set_cookie.partition(b"=")[2].partition(b";")[0]
    assert jwt.decode(value, options={"verify_signature": False})["sub"] == OWNER


async def test_a_ticket_is_spent_once_also_by_two_at_a_time() -> None:
    door = Door()
    message = body({"ticket": ticket(door)})
    statuses: list[int] = []

    async def spend() -> None:
        statuses.append((await post(door, message)).status)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(spend)
    assert sorted(statuses) == [204, 403, 403, 403, 403]
    assert_refused(await post(door, message))


async def test_a_ticket_for_another_preview_host_or_embedder_is_refused() -> None:
    door = Door()
    elsewhere = Tickets(SECRET, [APP, "https://other.example"])
    for spent in (
        ticket(door, preview=Preview("m1", 3001)),
        ticket(door, preview=Preview("m1", 3000, generation=1)),
        ticket(door, origin=Origin("https", "3000-m2.previews.example", 443)),
        elsewhere.issue(origin=PUBLIC, preview=PREVIEW, session=Session(OWNER), embedder="https://other.example"),
        Tickets(SECRET, [APP], clock=lambda: time.time() - 60).issue(
            origin=PUBLIC, preview=PREVIEW, session=Session(OWNER)
        ),
        door.gate().decode(),
        "x" * 3000,
        "",
    ):
        assert_refused(await post(door, body({"ticket": spent})))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"ticket"',
        b"{}",
        b'{"ticket": null}',
        b'{"ticket": 1}',
        b'{"ticket": ["x"]}',
        b"\xff\xfe",
        b"[" * 4000,
        b"ticket=x",
    ],
)
async def test_e07_a_body_that_is_not_the_ticket_is_refused(raw: bytes) -> None:
    assert_refused(await post(Door(), {"type": "http.request", "body": raw}))


@pytest.mark.parametrize(
    "content_type",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"multipart/form-data")],
        [(b"content-type", b"text/plain; application/json")],
        [(b"content-type", b"application/jsonp")],
        [(b"content-type", b"application/json"), (b"content-type", b"text/plain")],
    ],
)
async def test_e07_what_a_form_could_send_without_a_preflight_is_refused(
    content_type: list[tuple[bytes, bytes]],
) -> None:
    door = Door()
    message = body({"ticket": ticket(door)})
    assert_refused(await post(door, message, headers=[FROM_APP, *content_type]))
    assert (await post(door, message)).status == 204  # nothing was spent


@pytest.mark.parametrize(
    "origins",
    [
        [],
        [b"null"],
        [b"https://evil.example"],
        [b"https://" + HOST.encode()],
        [b"http://app.example"],
        [b"https://app.example:8443"],
        [b"https://app.example:443"],
        [b"https://app.example/"],
        [b"https://app.example.evil.example"],
        [b"https://evilapp.example"],
        [b"https://APP.example"],
        [b"https://app.example, https://evil.example"],
        [b" https://app.example"],
        [b"https://app.example", b"https://app.example"],
        [b"https://app.example", b"null"],
        [b"https://app.example\xa0"],
    ],
)
async def test_e07_an_origin_that_only_looks_like_the_embedder_gets_nothing(origins: list[bytes]) -> None:
    door = Door()
    headers = [(b"origin", origin) for origin in origins]
    message = body({"ticket": ticket(door)})
    answers = [await post(door, message, headers=[*headers, JSON])]
    for path, method in ((SESSION, "OPTIONS"), (CHECK, "GET")):
        answers.append(await call(door.proxy, scope_of(host=HOST, path=path, method=method, headers=headers)))
    assert [answer.status for answer in answers] == [403, 204, 401]
    for answer in answers:
        names = {name for name, _ in answer.messages[0]["headers"]}
        assert not any(name.startswith(b"access-control-") for name in names)
        assert b"set-cookie" not in names
        assert answer.values(b"vary") == [b"Origin"]
    assert (await post(door, message)).status == 204  # nothing was spent


async def test_e07_a_body_has_4_kib_at_most() -> None:
    door = Door()
    fits = json.dumps({"ticket": ticket(door)}).encode().ljust(MAX_BODY)
    assert_refused(await post(door, {"type": "http.request", "body": fits + b" "}))
    endless: list[Message] = [{"type": "http.request", "body": b" " * 1000, "more_body": True}] * 5
    assert_refused(await post(door, *endless))
    assert (await post(door, {"type": "http.request", "body": fits})).status == 204


async def test_a_visitor_who_leaves_in_the_body_is_not_waited_for() -> None:
    half: Message = {"type": "http.request", "body": b"{", "more_body": True}
    assert_refused(await post(Door(), half, {"type": "http.disconnect"}))


async def test_v01_a_body_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "BODY_TIMEOUT", 0.01)
    assert_refused(await post(Door(), {"type": "http.request", "body": b"{", "more_body": True}))


async def test_authorize_is_asked_again_at_the_exchange() -> None:
    allowed = True

    async def authorize(subject: str, preview: Preview) -> bool:
        return allowed

    door = Door(authorize=authorize)
    message = body({"ticket": ticket(door)})
    allowed = False
    assert_refused(await post(door, message))


async def test_a_check_that_fails_is_503_and_the_embedder_may_read_why() -> None:
    async def authorize(subject: str, preview: Preview) -> Any:
        raise LookupError

    door = Door(authorize=authorize)
    answer = await post(door, body({"ticket": ticket(door)}))
    assert_refused(answer, 503, "check_failed")
    assert answer.values(b"access-control-allow-origin") == [APP.encode()]


async def test_every_refusal_is_logged_once_and_names_its_request(caplog: pytest.LogCaptureFixture) -> None:
    door = Door()
    with caplog.at_level(logging.DEBUG, "preview_proxy"):
        answer = await post(door, body({"ticket": "canary"}))
    (record,) = records(caplog)
    assert record.getMessage().startswith(answer.json()["request_id"] + " 403 'POST' ")
    assert "canary" not in caplog.text
    for name, value in CORS:
        assert answer.values(name) == [value]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "post", "PROPFIND"])
async def test_the_exchange_is_a_post(method: str) -> None:
    answer = await call(Door().proxy, scope_of(host=HOST, path=SESSION, method=method, headers=[FROM_APP]))
    assert (answer.status, answer.values(b"allow")) == (405, [b"POST, OPTIONS"])
    assert answer.values(b"set-cookie") == []


async def test_the_exchange_of_a_host_that_shows_nothing_is_421() -> None:
    door = Door()
    scope = scope_of(host="previews.example", path=SESSION, method="POST", headers=[FROM_APP, JSON])
    assert_refused(await call(door.proxy, scope, body({"ticket": ticket(door)})), 421, "misdirected")


# --- 9.3 step 3: the check -----------------------------------------------------------------------------------------


async def test_the_check_says_whether_the_browser_kept_the_cookie() -> None:
    door = Door()
    for headers, status in ((gate_cookie(door.gate()), 204), ([], 401), (gate_cookie(b"x"), 401)):
        answer = await call(door.proxy, scope_of(host=HOST, path=CHECK, headers=[FROM_APP, *headers]))
        assert answer.status == status
        for name, value in [*CORS, PRIVATE[0]]:
            assert answer.values(name) == [value]
        answer = await call(door.proxy, scope_of(host=HOST, path=CHECK, headers=headers))
        assert answer.status == status
        assert answer.values(b"access-control-allow-origin") == []
    assert door.upstream.untouched


async def test_gates_of_two_subjects_are_none_and_the_embedder_may_read_so() -> None:
    door = Door()
    cookies = gate_cookie(door.gate(), door.gate("eve"))
    answer = await call(door.proxy, scope_of(host=HOST, path=CHECK, headers=[FROM_APP, *cookies]))
    assert (answer.status, answer.values(b"access-control-allow-origin")) == (400, [APP.encode()])


async def test_the_check_is_a_get() -> None:
    for method, status in (("GET", 401), ("HEAD", 401), ("POST", 405), ("OPTIONS", 405), ("DELETE", 405)):
        answer = await call(Door().proxy, scope_of(host=HOST, path=CHECK, method=method))
        assert answer.status == status
        assert answer.values(b"allow") == ([b"GET, HEAD"] if status == 405 else [])


# --- on the wire ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["httptools", "h11"])
async def w(request: pytest.FixtureRequest) -> Any:
    async with world(http=request.param) as made:
        yield made


async def test_the_whole_flow_over_a_real_server(w: World) -> None:
    preflight = w.request(SESSION, method="OPTIONS", headers={"Origin": EMBEDDER, "Cookie": ""})
    assert (await w.raw(preflight, method="OPTIONS")).values(b"access-control-max-age") == [b"600"]
    spent = await w.ticket()
    first, second = await w.exchange(spent), await w.exchange(spent)
    assert (first.status, second.status) == (204, 403)
    assert (first.complete, first.values(b"content-length"), first.values(b"transfer-encoding")) == (True, [], [])
    assert (await w.get(CHECK, headers={"Origin": EMBEDDER})).status == 204
    assert (await w.get(CHECK, headers={"Origin": EMBEDDER, "Cookie": ""})).status == 401
    assert (await w.exchange(await w.ticket(), **{"Content-Type": "text/plain"})).status == 403
    assert (await w.exchange(await w.ticket(), Host=f"3001-m2.preview.localhost:{w.port}")).status == 403
    assert w.nullspace.edge_requests == []
    assert w.reached_app == []

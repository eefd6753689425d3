"""The customer's own session at the gate."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from preview_proxy import HostPattern, Policy, PreviewProxy
from tests.test_gate import CASES, KINDS, SESSIONS, Case, Door, gate_cookie, owner_only, plain
from tests.world import OWNER

pytestmark = pytest.mark.anyio


@KINDS
@SESSIONS
async def test_the_customers_own_session_is_enough(kind: str, case: Case) -> None:
    door = Door(session=case.session, tickets=None)
    assert (await door.knock(kind, [(case.header, case.of(OWNER))])).status == 200


@KINDS
@SESSIONS
async def test_what_no_session_stands_behind_is_nobody(kind: str, case: Case) -> None:
    door = Door(session=case.session, tickets=None)
    refused = [[], [(b"cookie", b"jwt=x; session=x; sid=x"), (b"authorization", b"Bearer x")]]
    for headers in refused:
        answer = await door.knock(kind, headers)
        assert (answer.status, answer.json()["code"]) == (401, "not_signed_in")
    assert door.upstream.untouched


@KINDS
@SESSIONS
async def test_a02_a12_a_wrong_user_and_an_unknown_preview_get_one_answer(kind: str, case: Case) -> None:
    door = Door(session=case.session, tickets=None)
    refused = await door.knock(kind, [(case.header, case.of("eve"))])
    headers = [(b"origin", b"https://3000-m2.previews.example"), (case.header, case.of(OWNER))]
    unknown = await door.knock(kind, headers, host="3000-m2.previews.example", origin=None)
    assert refused.status == unknown.status == 404
    assert {**refused.json(), "request_id": ""} == {**unknown.json(), "request_id": ""}
    assert refused.messages[0] == unknown.messages[0]
    assert door.upstream.untouched


@KINDS
@pytest.mark.parametrize("name", ["jwt in a header", "jwt in a cookie", "starlette", "cookie"])
async def test_h06_what_the_session_is_read_from_never_reaches_upstream(kind: str, name: str) -> None:
    case = CASES[name]
    door = Door(session=case.session)
    field = case.of(OWNER)
    credential = field.partition(b"=")[2] if case.header == b"cookie" else field.removeprefix(b"Bearer ")
    headers = [(case.header, field), (b"cookie", b"own=1; __Host-Http-pp=" + door.gate())]
    assert (await door.knock(kind, headers)).status == 200
    (request,) = door.upstream.requests
    sent = b"\n".join(value for _, value in request.headers.raw)
    assert credential not in sent
    assert b"__Host-Http-pp" not in sent
    assert request.headers["cookie"] == "own=1"


@KINDS
async def test_h06_what_a_plain_function_reads_is_named_in_the_policy(kind: str) -> None:
    door = Door(session=plain)
    policy = Policy(private_headers=("x-user",), private_cookies=("theirs",))
    door.proxy = PreviewProxy(
        router=HostPattern("{port}-{machine}.previews.example"),
        provider=door.upstream,
        authorize=owner_only,
        session=plain,
        policy=policy,
        transport=door.upstream,
    )
    await door.knock(kind, [(b"x-user", OWNER.encode()), (b"cookie", b"theirs=1; own=1")])
    (request,) = door.upstream.requests
    assert "x-user" not in request.headers
    assert request.headers["cookie"] == "own=1"


@KINDS
async def test_the_gate_is_asked_first_and_the_session_where_it_does_not_hold(kind: str) -> None:
    asked = 0

    async def session(connection: HTTPConnection) -> str | None:
        nonlocal asked
        asked += 1
        return OWNER

    door = Door(session=session)
    assert (await door.knock(kind, gate_cookie(door.gate()))).status == 200
    assert asked == 0
    assert (await door.knock(kind, gate_cookie(b"expired"))).status == 200
    assert asked == 1


@KINDS
async def test_the_session_sees_the_request_as_it_came(kind: str) -> None:
    seen: list[HTTPConnection] = []

    async def session(connection: HTTPConnection) -> str | None:
        seen.append(connection)
        return None

    await Door(session=session, tickets=None).knock(kind, [(b"x-own", b"caf\xe9")])
    assert (seen[0].url.path, seen[0].headers["x-own"], seen[0].scope["type"]) == ("/", "café", kind)

"""A4, another tenant: a preview on a sibling host, its cookies, its connections and its gates."""

from __future__ import annotations

import pytest

from preview_proxy import Preview, Session, Tickets
from preview_proxy.core.models import Origin
from preview_proxy.testing import Request, Response
from tests.discretion import says_nothing
from tests.world import EMBEDDER, MACHINE, OWNER, SECRET, ZONE, World

pytestmark = pytest.mark.anyio


def gate_for(w: World, preview: Preview, *, host: str | None = None, subject: str = OWNER, secret: str = SECRET) -> str:
    host = host or f"{preview.port}-{preview.machine}.{ZONE}"
    origin = Origin.parse(f"http://{host}:{w.port}")
    return Tickets(secret, [EMBEDDER]).gate(origin=origin, preview=preview, session=Session(subject))[0]


async def test_a10_a_gate_opens_its_own_host_preview_and_generation_only(w: World) -> None:
    gates = {
        "another machine": gate_for(w, Preview("mch_of_eve", 3000)),
        "another port": gate_for(w, Preview(MACHINE, 3001)),
        "another host": gate_for(w, Preview(MACHINE, 3000), host=f"3001-{MACHINE}.{ZONE}"),
        "another generation": gate_for(w, Preview(MACHINE, 3000, 1)),
        "another secret": gate_for(w, Preview(MACHINE, 3000), secret="another secret, also of 32 bytes or more"),
        "a ticket": await w.ticket(),
    }
    for what, gate in gates.items():
        answer = await w.get("/echo", headers={"Cookie": f"pp-development={gate}"})
        assert answer.status == 401, what
        says_nothing(answer, w)
    assert (
        await w.get("/echo", headers={"Cookie": f"pp-development={gate_for(w, Preview(MACHINE, 3000))}"})
    ).status == 200


async def test_a02_a12_another_subject_gets_what_an_unknown_preview_gets(w: World) -> None:
    eve = await w.get(
        "/echo", headers={"Cookie": f"pp-development={gate_for(w, Preview(MACHINE, 3000), subject='eve')}"}
    )
    host = f"3000-mch_unknown.{ZONE}:{w.port}"
    gate = gate_for(w, Preview("mch_unknown", 3000), subject="eve")
    unknown = await w.get("/echo", headers={"Host": host, "Cookie": f"pp-development={gate}"})
    assert (eve.status, unknown.status) == (404, 404)
    assert {**eve.json(), "request_id": ""} == {**unknown.json(), "request_id": ""}
    assert [name for name, _ in eve.headers] == [name for name, _ in unknown.headers]


async def test_h08_gates_of_two_subjects_are_nobodys(w: World) -> None:
    mine, theirs = w.gate, gate_for(w, Preview(MACHINE, 3000), subject="eve")
    for cookies in ((mine, theirs), (theirs, mine)):
        cookie = "; ".join(f"pp-development={value}" for value in cookies)
        assert (await w.get("/echo", headers={"Cookie": cookie})).status == 400


async def test_p17_what_upstream_sets_for_one_visitor_is_sent_for_no_other(w: World) -> None:
    """Pitfall 1: the upstream client is no browser."""

    @w.dev.route("/sets")
    async def sets(request: Request, response: Response) -> None:
        await response.send(200, [("set-cookie", "canary=1; Path=/"), ("set-cookie", "b=2")], b"")

    for _ in range(3):
        assert (await w.get("/sets")).status == 200
    assert (await w.get("/echo")).status == 200
    assert w.nullspace.edge_requests[-1].values(b"cookie") == []
    assert w.nullspace.edge_requests[-1].values(b"user-agent") == []


async def test_p02_a_host_that_only_looks_like_one_of_ours_is_the_apps(w: World) -> None:
    before = len(w.nullspace.edge_requests)
    for host, status in (
        (f"{ZONE}.evil.example", 200), (f"evil{ZONE}", 200), ("app.localhost", 200),
        (f"x.{ZONE}", 421), (f"3000-{MACHINE}.x.{ZONE}", 421), (f"a.3000-{MACHINE}.{ZONE}", 421),
    ):  # fmt: skip
        answer = await w.get("/echo", headers={"Host": f"{host}:{w.port}"})
        assert answer.status == status
        assert (answer.body == b"the company's own page") is (status == 200)
    assert len(w.nullspace.edge_requests) == before


async def test_p01_one_host_has_several_spellings_and_one_meaning(w: World) -> None:
    for host in (w.host.upper(), w.host.replace(f":{w.port}", f".:{w.port}"), w.host.replace(":", ":0")):
        assert (await w.get("/echo", headers={"Host": host})).status in (200, 400)
        assert (await w.get("/echo", headers={"Host": host, "Cookie": ""})).status in (400, 401)


async def test_another_preview_may_not_read_this_one(w: World) -> None:
    """A sibling's page is another origin: neither its requests nor its preflights get an answer that it may read."""
    sibling = f"http://3001-{MACHINE}.{ZONE}:{w.port}"
    for method in ("OPTIONS", "GET"):
        headers = {
            "Origin": sibling,
            "Sec-Fetch-Site": "same-site",
            "Sec-Fetch-Mode": "cors",
            "Sec-Fetch-Dest": "empty",
        }
        answer = await w.get("/echo", method=method, headers=headers)
        assert answer.status == 403
        assert answer.values(b"access-control-allow-origin") == []

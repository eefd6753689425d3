from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import anyio
import jwt
import pytest
from anyio.lowlevel import checkpoint

from preview_proxy.core.models import Origin, Preview
from preview_proxy.errors import ConfigurationError, Forbidden
from preview_proxy.sessions import Session
from preview_proxy.tickets import MemoryTicketStore, Tickets, gate_cookie_name, gate_set_cookie

pytestmark = pytest.mark.anyio

SECRET = "canary-secret-of-32-bytes-or-more"
APP = "https://app.customer.test"
ORIGIN = Origin.parse("https://p-7f3a.previews.test")
PREVIEW = Preview("mch_7f3a", 3000, 4)
SESSION = Session("ann", "login-1")


class Clock:
    now = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(SECRET, [APP], clock=clock)


def issue(tickets: Tickets, **changes: Any) -> str:
    arguments: dict[str, Any] = {"origin": ORIGIN, "preview": PREVIEW, "session": SESSION}
    return tickets.issue(**(arguments | changes))


async def exchange(tickets: Tickets, ticket: str, **changes: Any) -> Session:
    arguments: dict[str, Any] = {"origin": ORIGIN, "preview": PREVIEW, "embedder": APP}
    return await tickets.exchange(ticket, **(arguments | changes))


async def refused(tickets: Tickets, ticket: str, **changes: Any) -> str:
    """The reason for which the exchange is refused."""
    with pytest.raises(Forbidden) as caught:
        await exchange(tickets, ticket, **changes)
    assert caught.value.code == "ticket_refused" and caught.value.__context__ is None
    assert ticket not in str(caught.value) or not ticket
    return caught.value.detail


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, unverified."""
    return jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})


def signed(tickets: Tickets, header: dict[str, Any], **changes: Any) -> str:
    """A ticket with the right signature and other contents. A change to `...` leaves the claim out."""
    claims = {name: value for name, value in (parts(issue(tickets))[1] | changes).items() if value is not ...}
    return jwt.encode(claims, tickets._ticket.key.reveal(), "HS256", headers=header)


# --- tickets -------------------------------------------------------------------------------------------------------


async def test_e05_a_ticket_becomes_the_session_it_was_issued_for(tickets: Tickets) -> None:
    assert await exchange(tickets, issue(tickets)) == SESSION
    until = Session("ann", "login-1", 1_800_000_100.25)
    assert await exchange(tickets, issue(tickets, session=until)) == until
    assert await exchange(tickets, issue(tickets, session=Session("ann"))) == Session("ann")


def test_e05_a_ticket_names_all_that_it_is_bound_to(tickets: Tickets) -> None:
    header, claims = parts(issue(tickets))
    assert header == {"alg": "HS256", "typ": "pp-ticket+jwt"}
    assert len(claims.pop("jti")) >= 22  # 128 bits in base64
    assert claims == {
        "aud": "https://p-7f3a.previews.test",
        "tgt": "mch_7f3a:3000:4",
        "emb": APP,
        "sub": "ann",
        "sid": "login-1",
        "iat": 1_800_000_000.5,  # a revocation in the same second is before it or after it
        "exp": 1_800_000_030,
    }


async def test_e05_a_ticket_is_spent_once(tickets: Tickets) -> None:
    ticket = issue(tickets)
    await exchange(tickets, ticket)
    assert await refused(tickets, ticket) == "it was spent before"


async def test_e05_of_a_thousand_exchanges_at_once_one_wins(tickets: Tickets) -> None:
    ticket, won, lost = issue(tickets), [], []

    async def visit() -> None:
        await checkpoint()
        try:
            won.append(await exchange(tickets, ticket))
        except Forbidden as error:
            lost.append(error.detail)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(visit)
    assert won == [SESSION] and lost == ["it was spent before"] * 999


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"origin": Origin.parse("https://p-0000.previews.test")}, "InvalidAudienceError"),
        ({"origin": Origin.parse("https://p-7f3a.previews.test:8443")}, "InvalidAudienceError"),
        ({"origin": Origin.parse("http://p-7f3a.previews.test")}, "InvalidAudienceError"),
        ({"preview": Preview("mch_0000", 3000, 4)}, "it is for another preview"),
        ({"preview": Preview("mch_7f3a", 3001, 4)}, "it is for another preview"),
        ({"preview": Preview("mch_7f3a", 3000, 5)}, "it is for another preview"),
        ({"embedder": "https://evil.test"}, "it is for a page of another origin"),
        ({"embedder": "https://app.customer.test.evil.test"}, "it is for a page of another origin"),
        ({"embedder": "http://app.customer.test"}, "it is for a page of another origin"),
        ({"embedder": "null"}, "it is for a page of another origin"),
        ({"embedder": ""}, "it is for a page of another origin"),
    ],
    ids=str,
)
async def test_e05_a10_a_ticket_holds_nowhere_else(tickets: Tickets, changes: dict[str, Any], reason: str) -> None:
    ticket = issue(tickets)
    assert await refused(tickets, ticket, **changes) == reason
    assert await exchange(tickets, ticket) == SESSION, "a refusal must not spend the ticket"


async def test_e07_a_ticket_for_one_embedder_is_no_good_to_another(clock: Clock) -> None:
    tickets = Tickets(SECRET, [APP, "https://admin.customer.test"], clock=clock)
    ticket = issue(tickets, embedder="https://admin.customer.test:443")
    assert await refused(tickets, ticket, embedder=APP) == "it is for a page of another origin"
    assert await exchange(tickets, ticket, embedder="https://admin.customer.test") == SESSION


async def test_e07_an_embedder_that_was_taken_off_the_list_cannot_spend_its_ticket(clock: Clock) -> None:
    ticket = issue(Tickets(SECRET, [APP, "https://old.test"], clock=clock), embedder="https://old.test")
    tickets = Tickets(SECRET, [APP], clock=clock)
    assert await refused(tickets, ticket, embedder="https://old.test") == "it is for a page of another origin"


async def test_e05_a_ticket_expires_after_30_seconds(tickets: Tickets, clock: Clock) -> None:
    ticket, late = issue(tickets), issue(tickets)
    clock.now += 29
    assert await exchange(tickets, ticket) == SESSION
    clock.now += 1
    assert await refused(tickets, late) == "it has expired"


async def test_e05_gates_and_tickets_do_not_stand_in_for_each_other(tickets: Tickets) -> None:
    gate, _ = tickets.gate(origin=ORIGIN, preview=PREVIEW, session=SESSION)
    assert await refused(tickets, gate) == "InvalidSignatureError"
    assert tickets.read_gate(issue(tickets).encode(), origin=ORIGIN, preview=PREVIEW) is None
    # The type alone would do, were the keys ever the same.
    assert await refused(tickets, signed(tickets, {"typ": "pp-gate+jwt"})) == "it is of another type"
    assert await refused(tickets, signed(tickets, {"typ": None})) == "it is of another type"


@pytest.mark.parametrize("claim", ["aud", "tgt", "sub", "sid", "jti", "iat", "exp"])
async def test_e05_a_ticket_without_a_claim_is_refused(tickets: Tickets, claim: str) -> None:
    ticket = signed(tickets, {"typ": "pp-ticket+jwt"}, **{claim: ...})
    assert await refused(tickets, ticket) == "MissingRequiredClaimError"


async def test_e05_a_ticket_for_several_hosts_is_refused(tickets: Tickets) -> None:
    ticket = signed(tickets, {"typ": "pp-ticket+jwt"}, aud=[str(ORIGIN), "https://p-0000.previews.test"])
    assert await refused(tickets, ticket) == "InvalidAudienceError"


async def test_e07_a_ticket_that_is_too_long_is_not_read(tickets: Tickets) -> None:
    assert await refused(tickets, signed(tickets, {"typ": "pp-ticket+jwt"}, padding="x" * 3000)) == "it is too long"


async def test_e05_a_ticket_without_an_embedder_is_refused(tickets: Tickets) -> None:
    ticket = signed(tickets, {"typ": "pp-ticket+jwt"}, emb=...)
    assert await refused(tickets, ticket) == "it is for a page of another origin"


@pytest.mark.parametrize(
    "ticket",
    ["", "a.b.c", "é", "\ud800", jwt.encode({"sub": "ann"}, "", "none"), jwt.encode({}, SECRET, "HS256")],
    ids=ascii,
)
async def test_e05_what_is_no_ticket_of_ours_is_refused(tickets: Tickets, ticket: str) -> None:
    assert await refused(tickets, ticket)


async def test_e05_a_ticket_made_with_another_secret_is_refused(tickets: Tickets, clock: Clock) -> None:
    other = Tickets(b"another secret of at least 32 bytes", [APP], clock=clock)
    assert await refused(tickets, issue(other)) == "InvalidSignatureError"


async def test_two_workers_with_one_secret_and_store_share_their_tickets(clock: Clock) -> None:
    store = MemoryTicketStore(clock)
    one, two = (Tickets(secret, [APP], store=store, clock=clock) for secret in (SECRET, SECRET.encode()))
    ticket = issue(one)
    assert await exchange(two, ticket) == SESSION
    assert await refused(one, ticket) == "it was spent before"


def test_an_embedder_must_be_named_if_there_are_several_and_be_one_of_them(tickets: Tickets, clock: Clock) -> None:
    several = Tickets(SECRET, [APP, "http://localhost:5173"], clock=clock)
    with pytest.raises(ValueError, match=r"pass embedder=.*one of: https://app.customer.test, http://localhost:5173"):
        issue(several)
    with pytest.raises(ValueError, match="pass embedder="):
        issue(tickets, embedder="https://evil.test")
    with pytest.raises(ValueError, match="is not an origin"):
        issue(tickets, embedder="app.customer.test")


# --- gates ---------------------------------------------------------------------------------------------------------


def test_e04_a_gate_is_read_back_where_it_was_made(tickets: Tickets) -> None:
    value, max_age = tickets.gate(origin=ORIGIN, preview=PREVIEW, session=SESSION)
    assert max_age == 3600
    assert parts(value)[0] == {"alg": "HS256", "typ": "pp-gate+jwt"} and "emb" not in parts(value)[1]
    session = tickets.read_gate(value.encode(), origin=ORIGIN, preview=PREVIEW)
    assert session == Session("ann", "login-1", 1_800_003_600)


@pytest.mark.parametrize(
    "changes",
    [{"origin": Origin.parse("https://p-0000.previews.test")}, {"preview": Preview("mch_7f3a", 3000, 5)}],
    ids=str,
)
def test_a10_a_gate_is_void_at_another_host_and_in_another_generation(
    tickets: Tickets, changes: dict[str, Any]
) -> None:
    value, _ = tickets.gate(origin=ORIGIN, preview=PREVIEW, session=SESSION)
    elsewhere: dict[str, Any] = {"origin": ORIGIN, "preview": PREVIEW} | changes
    assert tickets.read_gate(value.encode(), **elsewhere) is None


@pytest.mark.parametrize("value", [b"", b"a.b.c", b"\xff\xfe", b"x" * 5000])
def test_what_is_no_gate_is_nobody(tickets: Tickets, value: bytes) -> None:
    assert tickets.read_gate(value, origin=ORIGIN, preview=PREVIEW) is None


def test_a10_a_gate_ends_on_the_server_whatever_the_browser_keeps(tickets: Tickets, clock: Clock) -> None:
    value, max_age = tickets.gate(origin=ORIGIN, preview=PREVIEW, session=SESSION)
    clock.now += max_age
    assert tickets.read_gate(value.encode(), origin=ORIGIN, preview=PREVIEW) is None


def test_a_gate_ends_no_later_than_its_session(tickets: Tickets, clock: Clock) -> None:
    until = Session("ann", "login-1", clock.now + 60.9)
    value, max_age = tickets.gate(origin=ORIGIN, preview=PREVIEW, session=until)
    session = tickets.read_gate(value.encode(), origin=ORIGIN, preview=PREVIEW)
    assert max_age == 60 and session is not None and session.expires_at is not None
    assert session.expires_at <= clock.now + 60.9
    assert tickets.gate(origin=ORIGIN, preview=PREVIEW, session=Session("ann", "", clock.now + 9999))[1] == 3600


@pytest.mark.parametrize("left", [0.9, 0, -60])
def test_a_session_that_has_expired_gets_no_gate(tickets: Tickets, clock: Clock, left: float) -> None:
    with pytest.raises(Forbidden, match="ticket_refused: the session has expired"):
        tickets.gate(origin=ORIGIN, preview=PREVIEW, session=Session("ann", "", clock.now + left))


async def test_a07_a_gate_counts_as_issued_when_its_ticket_was(tickets: Tickets, clock: Clock) -> None:
    issued_at, ticket = clock.now, issue(tickets)
    clock.now += 29
    session = await exchange(tickets, ticket)
    gate, max_age = tickets.gate(origin=ORIGIN, preview=PREVIEW, session=session)
    read = tickets.read_gate(gate.encode(), origin=ORIGIN, preview=PREVIEW)
    assert read is not None
    assert session.issued_at == read.issued_at == issued_at
    assert (max_age, read.expires_at) == (3600, int(clock.now) + 3600)
    renewed = issue(tickets, session=read)
    assert (await exchange(tickets, renewed)).issued_at == clock.now


def test_e07_every_gate_is_new(tickets: Tickets) -> None:
    values = {tickets.gate(origin=ORIGIN, preview=PREVIEW, session=SESSION)[0] for _ in range(10)}
    assert len(values) == 10


def test_a_gate_with_the_longest_names_fits_in_a_cookie(tickets: Tickets) -> None:
    session = Session("s" * 255, "r" * 255)
    value, _ = tickets.gate(origin=ORIGIN, preview=Preview("m" * 128, 65535, 10**6), session=session)
    assert len(value) < 2048
    assert tickets.read_gate(value.encode(), origin=ORIGIN, preview=Preview("m" * 128, 65535, 10**6)) is not None


def test_e04_the_gate_cookie_is_exactly_this() -> None:
    assert gate_set_cookie("v", 3600, secure_origin=True) == (
        b"__Host-Http-pp=v; Path=/; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=3600"
    )
    assert gate_set_cookie("", 0, secure_origin=False) == (
        b"pp-development=; Path=/; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=0"
    )


def test_e04_the_gate_cookie_has_another_name_over_plain_http() -> None:
    assert gate_cookie_name(ORIGIN) == "__Host-Http-pp"
    assert gate_cookie_name(Origin.parse("http://p.localhost:8000")) == "pp-development"


# --- construction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret": "canary" + "x" * 25}, r"at least 32 random bytes, this one has 31.*secrets\.token_urlsafe"),
        ({"secret": b""}, "has 0"),
        ({"embedders": []}, "list of origins"),
        ({"embedders": APP}, "list of origins"),
        ({"embedders": ["app.customer.test"]}, "is not an origin"),
        ({"embedders": ["https://app.customer.test/"]}, "is not an origin"),
        ({"embedders": ["https://*.customer.test"]}, "is not an origin"),
        ({"embedders": ["null"]}, "is not an origin"),
        ({"embedders": ["http://app.customer.test"]}, "can be read and changed"),
        ({"embedders": ["ws://localhost"]}, "can be read and changed"),
        ({"gate_ttl": 0}, "gate_ttl"),
        ({"ticket_ttl": 0}, "ticket_ttl"),
        ({"ticket_ttl": 31}, "ticket_ttl must be 1 to 30 seconds"),
    ],
    ids=str,
)
def test_a_set_up_that_is_not_safe_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Tickets(**({"secret": SECRET, "embedders": [APP]} | options))
    assert "canary" not in str(caught.value) and caught.value.__context__ is None


def test_embedders_are_kept_as_browsers_send_them() -> None:
    embedders = ["https://App.customer.test:443", APP, "http://localhost:5173", "http://app.localhost"]
    assert Tickets(SECRET, embedders).embedders == (APP, "http://localhost:5173", "http://app.localhost")


def test_h19_the_secret_and_the_keys_are_in_no_form_of_tickets(caplog: pytest.LogCaptureFixture) -> None:
    tickets = Tickets(SECRET, [APP])
    keys = [kind.key.reveal().decode() for kind in (tickets._ticket, tickets._gate)]
    with caplog.at_level(logging.INFO):
        logging.info("%s %r %s", tickets, tickets, vars(copy.copy(tickets)))
    assert len({SECRET, *keys}) == 3 and not any(secret in caplog.text for secret in (SECRET, *keys))
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(tickets)

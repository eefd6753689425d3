from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import jwt
import pytest
import trustme
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy import jwks as module
from preview_proxy.errors import CheckFailed, ConfigurationError
from preview_proxy.jwks import JWKS
from preview_proxy.testing.tcp import Connection
from tests.discretion import records
from tests.tls import TlsServer

pytestmark = pytest.mark.anyio

PRIVATE = ec.generate_private_key(ec.SECP256R1())
ENTRY: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True)
RSA_ENTRY: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(
    rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key(), as_dict=True
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """A real HTTP server that publishes `kids`, or answers with `reply`, once `open` lets it."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.kids = ["one"]
        self.reply: bytes | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader) -> bytes:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        self.asked.set()
        await self.open.wait()
        body = json.dumps({"keys": [ENTRY | {"kid": kid} for kid in self.kids]}).encode()
        return self.reply or answer(body)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await self.answer(reader))
        writer.close()

    def hang(self) -> None:
        self.open.clear()
        self.asked.clear()


class OverTLS(TlsServer):
    """The same, for those who trust its certificate."""

    def __init__(self, issuer: Issuer, context: ssl.SSLContext) -> None:
        super().__init__(context)
        self.issuer = issuer

    async def talk(self, connection: Connection) -> None:
        await connection.write(await self.issuer.answer(connection.reader))


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
async def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def url(issuer: Issuer) -> AsyncIterator[str]:
    async with await asyncio.start_server(issuer, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys?tenant=1"
        issuer.open.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jwks(url: str, clock: Clock) -> JWKS:
    return JWKS(url, ["ES256"], clock=clock)


async def knows(jwks: JWKS, kid: str) -> bool:
    with anyio.fail_after(5):
        return await jwks.key(kid, "ES256") is not None


async def test_a_key_is_found_by_its_name_and_verifies(jwks: JWKS) -> None:
    key = await jwks.key("one", "ES256")
    assert key is not None
    assert jwt.decode(jwt.encode({"sub": "ann"}, PRIVATE, "ES256"), key, algorithms=["ES256"]) == {"sub": "ann"}


async def test_a05_the_request_is_plain_and_leaves_no_connection(jwks: JWKS, issuer: Issuer) -> None:
    assert await knows(jwks, "one")
    head = issuer.requests[0].lower()
    assert head.startswith(b"get /keys?tenant=1 http/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nconnection: close\r\n" in head
    assert b"cookie" not in head and b"authorization" not in head


async def test_a05_over_tls_only_an_issuer_with_a_trusted_certificate_is_heard(issuer: Issuer) -> None:
    authority = trustme.CA()
    server_tls, client_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_tls)
    authority.configure_trust(client_tls)
    async with OverTLS(issuer, server_tls) as server:
        url = f"https://localhost:{server.port}/keys"
        trusting = JWKS(url, ["ES256"], transport=httpx.AsyncHTTPTransport(verify=client_tls, trust_env=False))
        assert await knows(trusting, "one")
        with pytest.raises(CheckFailed, match="no JWKS: ConnectError"):
            await knows(JWKS(url, ["ES256"]), "one")


async def test_a_token_without_kid_needs_no_keys(jwks: JWKS, issuer: Issuer) -> None:
    assert await jwks.key(None, "ES256") is None
    assert issuer.requests == []


# --- how often it asks ---------------------------------------------------------------------------------------------


async def test_a05_many_visitors_at_once_cost_one_fetch(jwks: JWKS, issuer: Issuer) -> None:
    found: list[bool] = []

    async def visit() -> None:
        found.append(await knows(jwks, "one"))

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(visit)
    assert all(found) and len(found) == 200 and len(issuer.requests) == 1


async def test_a05_ten_thousand_invented_kids_cost_one_fetch_in_30_seconds(
    jwks: JWKS, issuer: Issuer, clock: Clock
) -> None:
    assert await knows(jwks, "one")
    clock.now += 30
    for number in range(10_000):
        assert await jwks.key(f"invented-{number}", "ES256") is None
    assert len(issuer.requests) == 2


async def test_a05_a_new_key_is_picked_up_by_the_first_token_that_names_it(
    jwks: JWKS, issuer: Issuer, clock: Clock
) -> None:
    assert await knows(jwks, "one")
    issuer.kids = ["one", "two"]
    clock.now += 29
    assert not await knows(jwks, "two")
    clock.now += 1
    assert await knows(jwks, "two")


async def test_a05_a_slow_issuer_does_not_delay_tokens_whose_key_is_known(
    jwks: JWKS, issuer: Issuer, clock: Clock
) -> None:
    assert await knows(jwks, "one")
    issuer.hang()
    issuer.kids = ["two"]
    clock.now += 8 * 60
    assert await knows(jwks, "one")
    with anyio.fail_after(5):
        await issuer.asked.wait()
    assert await knows(jwks, "one")
    issuer.open.set()
    assert await knows(jwks, "two")
    assert not await knows(jwks, "one")
    assert len(issuer.requests) == 2


async def test_a05_a_visitor_who_leaves_does_not_end_what_others_wait_for(jwks: JWKS, issuer: Issuer) -> None:
    issuer.hang()
    found: list[bool] = []

    async def stay() -> None:
        found.append(await knows(jwks, "one"))

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as leaving:
            async with anyio.create_task_group() as first:
                first.start_soon(knows, jwks, "one")
                with anyio.fail_after(5):
                    await issuer.asked.wait()
                group.start_soon(stay)
                await checkpoint()
                leaving.cancel()
        issuer.open.set()
    assert found == [True] and len(issuer.requests) == 1


async def test_a05_a_removed_key_is_refused_after_the_ttl(jwks: JWKS, issuer: Issuer, clock: Clock) -> None:
    assert await knows(jwks, "one")
    issuer.kids = ["two"]
    clock.now += 10 * 60
    assert not await knows(jwks, "one")


# --- when the issuer fails -----------------------------------------------------------------------------------------


async def test_a05_while_the_issuer_fails_known_keys_hold_for_an_hour_and_no_longer(
    jwks: JWKS, issuer: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert await knows(jwks, "one")
    issuer.reply = answer(b"", "500 Oops")
    clock.now += 10 * 60
    assert await knows(jwks, "one")
    assert records(caplog)[0].getMessage().endswith("not fetched: status 500")
    issuer.hang()
    clock.now += 49 * 60
    assert await knows(jwks, "one")
    issuer.open.set()
    clock.now += 60
    with pytest.raises(CheckFailed, match="no JWKS: status 500") as caught:
        await knows(jwks, "one")
    assert caught.value.status == 503 and caught.value.__context__ is None
    issuer.reply = None
    clock.now += 5
    assert await knows(jwks, "one")


async def test_a05_without_any_keys_it_fails_closed_and_asks_again_after_5_seconds(
    jwks: JWKS, issuer: Issuer, clock: Clock
) -> None:
    issuer.reply = answer(b"", "503 Busy")
    for _ in range(3):
        with pytest.raises(CheckFailed, match="no JWKS: status 503"):
            await knows(jwks, "one")
    assert len(issuer.requests) == 1
    issuer.reply = None
    clock.now += 5
    assert await knows(jwks, "one")


async def test_a05_an_issuer_that_hangs_is_given_up(
    jwks: JWKS, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.02)
    issuer.hang()
    with pytest.raises(CheckFailed, match=r"no JWKS: (TimeoutError|ReadTimeout)"):
        await knows(jwks, "one")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "status 302"),
        (answer(b'{"keys": []}', "404 Not Found"), "status 404"),
        (answer(b" " * (256 * 1024) + b'{"keys": []}'), "more than 262144 bytes"),
        (answer(json.dumps({"keys": [ENTRY] * 65}).encode()), "more than 64 keys"),
        (answer(b"<html>"), "JSONDecodeError"),
        (answer(b"[" * 100_000), "RecursionError"),
        (answer(b'{"key\xff": []}'), "UnicodeDecodeError"),
        (answer(b"[]"), "not a JWKS"),
        (answer(b"{}"), "not a JWKS"),
        (answer(b'{"keys": {}}'), "not a JWKS"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}", "RemoteProtocolError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a05_an_answer_that_is_no_key_set_is_a_failure(
    jwks: JWKS, issuer: Issuer, reply: bytes, reason: str
) -> None:
    issuer.reply = reply
    with pytest.raises(CheckFailed, match=f"no JWKS: {reason}"):
        await knows(jwks, "one")
    assert len(issuer.requests) == 1


async def test_an_empty_key_set_is_an_answer_and_withdraws_every_key(jwks: JWKS, issuer: Issuer, clock: Clock) -> None:
    assert await knows(jwks, "one")
    issuer.kids = []
    clock.now += 10 * 60
    assert not await knows(jwks, "one")


# --- which keys count ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY,
        ENTRY | {"kid": 7},
        ENTRY | {"kid": "x", "kty": "oct", "k": "A" * 43},
        ENTRY | {"kid": "x", "alg": "ES384"},
        ENTRY | {"kid": "x", "use": "enc"},
        ENTRY | {"kid": "x", "key_ops": ["sign"]},
        ENTRY | {"kid": "x", "key_ops": 7},
        jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE, as_dict=True) | {"kid": "x"},
        ENTRY | {"kid": "x", "x": "AAAA"},
        ENTRY | {"kid": "x", "crv": None},
        ENTRY | {"kid": "x", "y": None},
        RSA_ENTRY | {"kid": "x"},
        {"kid": "x"},
        "x",
        None,
    ],
    ids=lambda entry: str(sorted(entry)) if isinstance(entry, dict) else repr(entry),
)
async def test_a_key_that_is_unfit_does_not_count_and_does_not_spoil_the_others(
    jwks: JWKS, issuer: Issuer, entry: object
) -> None:
    issuer.reply = answer(json.dumps({"keys": [entry, ENTRY | {"kid": "one", "use": "sig", "alg": "ES256"}]}).encode())
    assert not await knows(jwks, "x")
    assert await knows(jwks, "one")


async def test_a_key_of_another_curve_verifies_nothing(jwks: JWKS, issuer: Issuer) -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    entry = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": "one"}
    issuer.reply = answer(json.dumps({"keys": [entry]}).encode())
    key = await jwks.key("one", "ES256")
    assert key is not None
    with pytest.raises(jwt.PyJWTError):
        jwt.decode(jwt.encode({}, private, "ES384"), key, algorithms=["ES256"])


async def test_a_key_without_alg_serves_each_algorithm_of_the_family(url: str, issuer: Issuer) -> None:
    issuer.reply = answer(json.dumps({"keys": [RSA_ENTRY | {"kid": "one"}]}).encode())
    jwks = JWKS(url, ["RS256", "RS512"])
    names = [key.algorithm_name for name in ("RS256", "RS512") if (key := await jwks.key("one", name))]
    assert names == ["RS256", "RS512"]


@pytest.mark.parametrize(
    "url",
    [
        "http://id.test/keys",
        "ftp://id.test/keys",
        "wss://id.test/keys",
        "https://user:pass@id.test/keys",
        "https://id.test/keys#one",
        "https:///keys",
        "https://id.test:port/keys",
        "/keys",
        "",
    ],
)
def test_a05_a_url_that_is_not_safe_to_ask_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="jwks_url must be an https URL"):
        JWKS(url, ["ES256"])


names = st.sampled_from(["kid", "kty", "crv", "x", "y", "d", "n", "e", "k", "alg", "use", "key_ops"])
plain = st.none() | st.integers() | st.text(max_size=4) | st.lists(st.text(max_size=3), max_size=2)
told = plain | st.sampled_from(["ES256", "RS256", "sig", "oct", "EC", "P-256", ENTRY["x"], ["verify"]])
entries = st.builds(
    lambda entry, changes: {**entry, **changes}, st.sampled_from([{}, ENTRY, RSA_ENTRY]), st.dictionaries(names, told)
)
documents = st.builds(lambda keys: {"keys": keys}, st.lists(entries | plain, max_size=3) | plain) | plain


@given(documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=30))
def test_a05_whatever_an_issuer_says_only_public_keys_of_the_algorithms_count(answered: bytes) -> None:
    try:
        keys = module._parse(answered, ("ES256", "RS256"))
    except (CheckFailed, ValueError, RecursionError):
        return
    for (kid, algorithm), key in keys.items():
        assert isinstance(kid, str) and algorithm in ("ES256", "RS256")
        assert isinstance(key.key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import itertools
import json
import logging
import pickle
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from preview_proxy import jwt_sessions
from preview_proxy.errors import ConfigurationError
from preview_proxy.jwt_sessions import JWTSession
from preview_proxy.sessions import Session

pytestmark = pytest.mark.anyio

SECRET = "canary-secret-of-32-bytes-or-more"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
PRIVATE["PS256"] = PRIVATE["RS256"]


def public_pem(private: Any) -> bytes:
    pem: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def private_pem(private: Any) -> bytes:
    pem: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that hold for ten minutes. A change to `...` leaves the claim out."""
    now = int(time.time())
    base = {"sub": "ann", "aud": "previews", "iss": "https://id.test", "iat": now, "exp": now + 600, "sid": "login-1"}
    return {name: value for name, value in (base | changes).items() if value is not ...}


def token(
    payload: dict[str, Any] | None = None, header: dict[str, Any] | None = None, key: Any = SECRET, alg: str = "HS256"
) -> str:
    return jwt.encode(claims() if payload is None else payload, key, alg, headers=header)


def raw_token(header: dict[str, Any], payload: str, sign: bytes | None) -> str:
    """A token that PyJWT would not make: any header and any JSON, signed by HMAC-SHA256 or not at all."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (json.dumps(header).encode(), payload.encode())]
    signature = b"" if sign is None else hmac.digest(sign, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def session_auth(**changes: Any) -> JWTSession:
    options: dict[str, Any] = {
        "key": SECRET,
        "algorithms": ["HS256"],
        "audience": "previews",
        "issuer": "https://id.test",
        "cookie": "jwt",
    }
    return JWTSession(**(options | changes))


def visit(*cookies: str, **headers: str) -> HTTPConnection:
    fields = [(b"cookie", f"jwt={cookie}".encode()) for cookie in cookies]
    fields += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": fields})


# --- what holds ----------------------------------------------------------------------------------------------------


async def test_a_token_in_the_cookie_is_a_session() -> None:
    payload = claims()
    assert await session_auth()(visit(token(payload))) == Session("ann", "login-1", float(payload["exp"]))
    assert await session_auth()(visit()) is None


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("pem", [public_pem, private_pem])
async def test_a_pem_key_verifies_each_asymmetric_algorithm(algorithm: str, pem: Any) -> None:
    private = PRIVATE[algorithm]
    authenticator = session_auth(key=pem(private), algorithms=[algorithm])
    assert await authenticator(visit(token(key=private, alg=algorithm))) is not None
    stranger = {"RS256": "ES256"}.get(algorithm, "RS256")
    assert await authenticator(visit(token(key=PRIVATE[stranger], alg=stranger))) is None
    header, body, signature = token(key=private, alg=algorithm).split(".")
    assert await authenticator(visit(f"{header}.{body}.{signature[4:]}AAAA")) is None


async def test_of_a_private_key_only_the_public_half_is_kept() -> None:
    authenticator = session_auth(key=private_pem(PRIVATE["RS256"]), algorithms=["RS256"])
    key = await authenticator._find_key(None, "RS256")
    assert not hasattr(key, "private_bytes")


@pytest.mark.parametrize(
    ("payload", "ref"),
    [
        (claims(jti="token-1"), "login-1"),
        (claims(sid=..., jti="token-1"), "token-1"),
        (claims(sid=7, jti="token-1"), "token-1"),
        (claims(sid="", jti="x" * 256), None),
        (claims(sid=...), None),
    ],
)
async def test_the_ref_is_sid_else_jti_else_a_hash_of_the_token(payload: dict[str, Any], ref: str | None) -> None:
    text = token(payload)
    session = await session_auth()(visit(text))
    assert session is not None
    assert session.ref == (ref or hashlib.sha256(text.encode()).hexdigest()[:32])


async def test_one_of_several_audiences_and_issuers_is_enough() -> None:
    authenticator = session_auth(audience=["a", "previews"], issuer=["https://old.test", "https://id.test"])
    assert await authenticator(visit(token())) is not None
    assert await authenticator(visit(token(claims(aud=["x", "previews"])))) is not None


# --- RFC 8725 ------------------------------------------------------------------------------------------------------

NOW = int(time.time())
LONG_AGO, SOON = NOW - 31, NOW + 600


@pytest.mark.parametrize(
    "payload",
    [
        *[claims(**{name: ...}) for name in ("exp", "iat", "sub", "aud", "iss")],
        *[claims(**{name: None}) for name in ("exp", "iat", "sub", "aud")],
        claims(exp=LONG_AGO),
        claims(exp=str(SOON)),
        claims(exp=1e30),
        claims(exp=10**30),
        claims(exp=SOON * 1000),
        claims(exp=float("inf")),
        claims(exp=float("nan")),
        claims(exp=True),
        claims(exp=[SOON]),
        claims(iat=NOW + 86_400, exp=NOW + 90_000),
        claims(iat=str(NOW)),
        claims(iat=float("-inf")),
        claims(nbf=NOW + 86_400, exp=NOW + 90_000),
        claims(sub=""),
        claims(sub="a\nb"),
        claims(sub="\ud800"),
        claims(sub="x" * 256),
        claims(aud="another-app"),
        claims(aud=[]),
        claims(aud=["preview"]),
        claims(aud=[7, "previews"]),
        claims(aud={"previews": 1}),
        claims(iss="https://id.test.evil.test"),
        claims(iss="https://id.test/"),
        claims(jti=7),
    ],
    ids=itertools.count(),
)
async def test_a04_a_claim_that_is_missing_or_wrong_is_nobody(payload: dict[str, Any]) -> None:
    text = raw_token({"alg": "HS256", "typ": "JWT"}, json.dumps(payload), SECRET.encode())
    assert await session_auth()(visit(text)) is None


@pytest.mark.parametrize("issuer", [None, 7, ["https://id.test"]])
async def test_a04_an_issuer_that_is_no_string_is_nobody(issuer: object) -> None:
    text = raw_token({"alg": "HS256"}, json.dumps(claims(iss=issuer)), SECRET.encode())
    assert await session_auth(issuer=["https://id.test"])(visit(text)) is None


@pytest.mark.parametrize("payload", ["[]", "null", "7", "{", "", "[" * 3000, '{"exp":' + "9" * 4500 + "}"])
async def test_a04_a_payload_that_is_no_object_is_nobody(payload: str) -> None:
    assert await session_auth()(visit(raw_token({"alg": "HS256"}, payload, SECRET.encode()))) is None


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "hs256"},
        {"alg": "HS384"},
        {"alg": ["HS256"]},
        {"alg": None},
        {},
        {"alg": "HS256", "crit": ["exp"], "exp": 1},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "jku": "https://evil.test/keys"},
        {"alg": "HS256", "x5u": "https://evil.test/cert"},
        {"alg": "HS256", "x5c": ["MII"]},
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}},
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "kid": None},
    ],
    ids=repr,
)
async def test_a04_a_header_that_asks_for_anything_else_is_nobody(header: dict[str, Any]) -> None:
    payload = json.dumps(claims())
    assert await session_auth()(visit(raw_token(header, payload, SECRET.encode()))) is None
    assert await session_auth()(visit(raw_token(header, payload, None))) is None


async def test_a04_a_public_key_is_not_taken_as_a_shared_secret() -> None:
    pem = public_pem(PRIVATE["RS256"])
    confused = raw_token({"alg": "HS256", "typ": "JWT"}, json.dumps(claims()), pem)
    assert await session_auth(key=pem, algorithms=["RS256"])(visit(confused)) is None
    with pytest.raises(ConfigurationError, match="key does not fit HS256"):
        session_auth(key=pem)


async def test_a04_a_token_signed_with_another_key_is_nobody() -> None:
    assert await session_auth()(visit(token(key="another secret of at least 32 bytes"))) is None


async def test_a04_the_leeway_is_for_clocks_only() -> None:
    recent = token(claims(exp=int(time.time()) - 10))
    assert await session_auth()(visit(recent)) is not None
    assert await session_auth(leeway=0)(visit(recent)) is None


async def test_a04_a_token_of_more_than_8_kib_is_nobody() -> None:
    fits, too_long = (token(claims(padding="x" * size)) for size in (5000, 6500))
    assert len(fits) < 8192 < len(too_long)
    assert await session_auth()(visit(fits)) is not None
    assert await session_auth()(visit(too_long)) is None


async def test_a04_max_age_caps_the_lifetime_of_a_token() -> None:
    authenticator = session_auth(max_age=600)
    assert await authenticator(visit(token())) is not None
    assert await authenticator(visit(token(claims(exp=int(time.time()) + 660)))) is None


@pytest.mark.parametrize(
    ("typ", "holds"), [("at+jwt", True), ("application/AT+JWT", True), ("JWT", False), (None, False), (7, False)]
)
async def test_a04_the_type_is_checked_where_one_is_named(typ: object, holds: bool) -> None:
    header = {"alg": "HS256"} | ({} if typ is None else {"typ": typ})
    text = raw_token(header, json.dumps(claims()), SECRET.encode())
    assert (await session_auth(typ="at+jwt")(visit(text)) is not None) == holds


@pytest.mark.parametrize("text", ["", ".", "..", "a.b", "a.b.c", "....", "é.é.é"])
async def test_a04_what_is_no_token_is_nobody(text: str) -> None:
    assert await session_auth()(visit(text)) is None


@given(st.binary(max_size=200))
async def test_a04_no_bytes_in_a_cookie_break_the_check(value: bytes) -> None:
    valid = token().encode()
    for candidate in (value, valid + value, value + valid, valid[:20] + value + valid[20:]):
        fields = [(b"cookie", b"jwt=" + candidate)]
        await session_auth()(HTTPConnection({"type": "http", "headers": fields}))


# --- where the token is --------------------------------------------------------------------------------------------


async def test_h08_several_cookies_count_only_if_one_verifies() -> None:
    ann, bob, bad = token(), token(claims(sub="bob")), token(key="another secret of at least 32 bytes")
    authenticator = session_auth()
    for cookies in ([bad, ann], [ann, bad], [ann, ann]):
        session = await authenticator(visit(*cookies))
        assert session is not None and session.subject == "ann"
    assert await authenticator(visit(ann, bob)) is None
    assert await authenticator(visit(bob, ann)) is None


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_authorization_is_read_with_the_bearer_scheme(scheme: str) -> None:
    authenticator = session_auth(cookie=None, header="Authorization")
    assert await authenticator(visit(authorization=scheme + token())) is not None
    assert await authenticator(visit(token())) is None


@pytest.mark.parametrize("scheme", ["", "Basic ", "Token ", "Bearer"])
async def test_authorization_with_another_scheme_is_nobody(scheme: str) -> None:
    assert await session_auth(cookie=None, header="authorization")(visit(authorization=scheme + token())) is None


async def test_any_other_header_holds_the_bare_token() -> None:
    authenticator = session_auth(cookie=None, header="X-Session")
    assert await authenticator(visit(x_session=token())) is not None
    assert await authenticator(visit(x_session=f"Bearer {token()}")) is None


async def test_the_header_goes_before_the_cookie_but_an_apps_own_header_does_not_hide_it() -> None:
    authenticator = session_auth(header="authorization")
    bob = token(claims(sub="bob"))
    session = await authenticator(visit(token(), authorization=f"Bearer {bob}"))
    assert session is not None and session.subject == "bob"
    session = await authenticator(visit(token(), authorization="Bearer the-sandboxed-apps-own"))
    assert session is not None and session.subject == "ann"


def test_h06_what_is_read_is_declared() -> None:
    both, header = session_auth(header="Authorization"), session_auth(cookie=None, header="X-Session")
    assert (both.cookies, both.headers) == (frozenset({"jwt"}), frozenset({"authorization"}))
    assert (header.cookies, header.headers) == (frozenset(), frozenset({"x-session"}))


# --- construction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cookie": None}, "where the token is"),
        ({"cookie": "a b"}, "cannot name a cookie"),
        ({"header": "a:b"}, "cannot name a header"),
        ({"leeway": 61}, "leeway"),
        ({"leeway": -1}, "leeway"),
        ({"leeway": float("nan")}, "leeway"),
        ({"max_age": 0}, "max_age"),
        ({"algorithms": []}, "algorithms"),
        ({"algorithms": "HS256"}, "algorithms must be a list"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": ["HS256", "none"]}, "algorithms"),
        ({"algorithms": ["HS256", "RS256"]}, "one family"),
        ({"algorithms": ["RS256", "PS256"]}, "one family"),
        ({"audience": ""}, "audience"),
        ({"audience": []}, "audience"),
        ({"audience": None}, "audience"),
        ({"issuer": [""]}, "issuer"),
        ({"key": None}, "either key= or jwks_url="),
        ({"jwks_url": "https://id.test/keys"}, "not both"),
        ({"key": None, "jwks_url": "https://id.test/keys"}, "shared secret"),
        ({"key": None, "jwks_url": "http://id.test/keys", "algorithms": ["RS256"]}, "https"),
        ({"key": "short-canary"}, "12 bytes"),
        ({"key": "canary-" + "x" * 32, "algorithms": ["HS256", "HS512"]}, "does not fit HS512"),
        ({"key": b""}, "key does not fit"),
        ({"key": SECRET, "algorithms": ["RS256"]}, "a public key in PEM"),
        ({"key": SECRET, "algorithms": ["EdDSA"]}, "a public key in PEM"),
        ({"key": public_pem(PRIVATE["ES256"]), "algorithms": ["RS256"]}, "key does not fit RS256"),
        ({"key": public_pem(PRIVATE["RS256"]), "algorithms": ["EdDSA"]}, "key does not fit EdDSA"),
        ({"key": public_pem(PRIVATE["ES256"]), "algorithms": ["ES256", "ES384"]}, "key does not fit ES384"),
        ({"key": '{"kty":"oct","k":"' + "A" * 43 + '"}'}, "key does not fit HS256"),
    ],
    ids=itertools.count(),
)
def test_a04_a_weak_or_contradictory_set_up_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        session_auth(**options)
    assert "canary" not in str(caught.value) and caught.value.__context__ is None


def test_a04_an_rsa_key_of_1024_bits_is_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(ConfigurationError, match="1024 bits"):
        session_auth(key=public_pem(weak), algorithms=["RS256"])


def test_without_cryptography_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt_sessions, "has_crypto", False)
    with pytest.raises(ConfigurationError, match=r"pip install 'preview-proxy\[crypto\]'"):
        session_auth(algorithms=["RS256"])


def test_h19_the_shared_secret_is_in_no_form_of_the_authenticator(caplog: pytest.LogCaptureFixture) -> None:
    authenticator = session_auth()
    with caplog.at_level(logging.INFO):
        logging.info("%s %r %s", authenticator, authenticator, vars(copy.copy(authenticator)))
    assert SECRET not in caplog.text
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(authenticator)

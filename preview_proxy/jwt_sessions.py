"""The customer's session as a JSON Web Token, checked by RFC 8725."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import jwt
from jwt.algorithms import has_crypto
from starlette.requests import HTTPConnection

from preview_proxy.core.cookies import cookie_values, is_token
from preview_proxy.errors import ConfigurationError
from preview_proxy.jwks import JWKS
from preview_proxy.sessions import Session, cookie_name, fingerprint, is_name, is_number, only_verified

# The first two letters are the family: algorithms of one family take the same keys (RFC 7518 §3.1, RFC 8037).
ALGORITHMS = (
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512",
    "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512",
    "EdDSA",
)  # fmt: skip
# Header parameters that bring a key along (RFC 7515 §4.1.2 to §4.1.6), and extensions, of which we know none
REFUSED_PARAMETERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit"})
REQUIRED_CLAIMS = ["exp", "iat", "sub", "aud", "iss"]
MAX_LEEWAY = 60
# The end of the year 9999. A later time is a mistake, such as milliseconds or 1e30.
LATEST = 253_402_300_799

FindKey = Callable[[str | None, str], Awaitable[Any]]
"""From the token's `kid` and algorithm to a key that PyJWT takes, or None."""


class JWTSession:
    """A session whose proof is a signed token in a cookie or a header.

    Exactly one of `key` and `jwks_url`. `key` is the shared secret of an HS algorithm (as long as its hash: 32 to
    64 bytes), or a public key in PEM; of a private key only the public half is kept. `jwks_url` is where the
    issuer publishes its keys (see `JWKS`); a token must then name its key in `kid`.

    `algorithms` are of one family. `audience` and `issuer` are what `aud` and `iss` must hold, one of several
    where there are several. At least one of `cookie` and `header`: ``"authorization"`` is read as
    ``Bearer <token>``, any other header as the bare token. A browser sends cookies with every request, but a
    header only where a script adds it, so previews in frames need the cookie. Where both are there the header
    goes first, and gives way if its token is someone else's, such as the sandboxed app's own.

    `leeway` is the tolerated clock difference in seconds, 60 at most; `max_age` caps ``exp - iat`` (seconds);
    `typ` is the token type to insist on (RFC 8725 §3.11), such as ``"at+jwt"``. The token is at most 8 KiB.

    `Session.subject` is ``sub``, `Session.expires_at` is ``exp``, `Session.ref` is ``sid``, else ``jti``, else a
    hash of the token. A token that does not hold means that nobody is signed in, as do several that do.

    Raises `ConfigurationError`, and `CheckFailed` when asked while the issuer's keys cannot be had.
    """

    def __init__(
        self,
        *,
        key: str | bytes | None = None,
        jwks_url: str | None = None,
        algorithms: Sequence[str],
        audience: str | Sequence[str],
        issuer: str | Sequence[str],
        cookie: str | None = None,
        header: str | None = None,
        leeway: float = 30,
        max_age: float | None = None,
        typ: str | None = None,
    ) -> None:
        if cookie is None and header is None:
            raise ConfigurationError("JWTSession needs to know where the token is: pass cookie=, header= or both")
        if not 0 <= leeway <= MAX_LEEWAY:
            raise ConfigurationError(f"leeway must be 0 to {MAX_LEEWAY} seconds, not {leeway!r}")
        if max_age is not None and not max_age > 0:
            raise ConfigurationError(f"max_age must be greater than 0 seconds, not {max_age!r}")
        self.cookies: frozenset[str] = frozenset() if cookie is None else frozenset({cookie_name(cookie)})
        self.headers: frozenset[str] = frozenset() if header is None else frozenset({_header_name(header)})
        self._algorithms = _one_family(algorithms)
        self._audience = _strings(audience, "audience")
        self._issuer = _strings(issuer, "issuer")
        self._leeway = leeway
        self._max_age = max_age
        self._typ = None if typ is None else _media_type(typ)
        self._find_key = _key_source(key, jwks_url, self._algorithms)

    async def __call__(self, connection: HTTPConnection, /) -> Session | None:
        headers = tuple(connection.scope["headers"])
        in_headers = [_token(name, value) for name, value in headers if name.decode("latin-1") in self.headers]
        in_cookies = [value for name in self.cookies for value in cookie_values(headers, name)]
        return await only_verified(in_headers, self._verify) or await only_verified(in_cookies, self._verify)

    async def _verify(self, token: bytes) -> Session | None:
        header = self._header(token)
        if header is None:
            return None
        key = await self._find_key(header.get("kid"), header["alg"])
        return None if key is None else self._session(token, key, header["alg"])

    def _header(self, token: bytes) -> dict[str, Any] | None:
        """The token's header, not verified yet, if it asks for nothing but a key of ours."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        if header.get("alg") not in self._algorithms or not REFUSED_PARAMETERS.isdisjoint(header):
            return None
        if self._typ is not None and _media_type(header.get("typ")) != self._typ:
            return None
        return header

    def _session(self, token: bytes, key: Any, algorithm: str) -> Session | None:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": REQUIRED_CLAIMS, "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError:
            return None
        if not (is_name(claims["sub"]) and self._lifetime_holds(claims["iat"], claims["exp"])):
            return None
        ref = next((claims[name] for name in ("sid", "jti") if is_name(claims.get(name))), fingerprint(token))
        return Session(claims["sub"], ref, float(claims["exp"]))

    def _lifetime_holds(self, issued_at: Any, expires_at: Any) -> bool:
        """Whether both are numbers (PyJWT takes digits in a string) within reason and `max_age`."""
        if not (is_number(issued_at) and is_number(expires_at) and expires_at <= LATEST):
            return False
        return self._max_age is None or expires_at - issued_at <= self._max_age


def _token(name: bytes, value: bytes) -> bytes:
    """The token in a header field, or nothing. A scheme's name has no case (RFC 9110 §11.1)."""
    if name != b"authorization":
        return value.strip(b" \t")
    scheme, _, token = value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""


def _media_type(typ: object) -> str | None:
    """``application/at+jwt`` and ``AT+JWT`` are the same type (RFC 7515 §4.1.9)."""
    return typ.lower().removeprefix("application/") if isinstance(typ, str) else None


def _header_name(name: str) -> str:
    if not is_token(name.encode("latin-1", "replace")):
        raise ConfigurationError(f"{name!r} cannot name a header")
    return name.lower()


def _strings(value: str | Sequence[str], what: str) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else tuple(value or ())
    if not strings or not all(isinstance(string, str) and string for string in strings):
        raise ConfigurationError(f"{what} must be a string or several: without one, another app's token would pass")
    return strings


def _one_family(algorithms: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(algorithms, str) else tuple(algorithms)
    unknown = [name for name in names if name not in ALGORITHMS]
    if not names or unknown:
        raise ConfigurationError(f"algorithms must be a list of some of {', '.join(ALGORITHMS)}, not {algorithms!r}")
    if len({name[:2] for name in names}) > 1:
        raise ConfigurationError(f"algorithms must be of one family, such as RS256 and RS384, not {algorithms!r}")
    return names


def _key_source(key: str | bytes | None, jwks_url: str | None, algorithms: tuple[str, ...]) -> FindKey:
    if (key is None) == (jwks_url is None):
        raise ConfigurationError("JWTSession needs either key= or jwks_url=, and not both")
    symmetric = algorithms[0].startswith("HS")
    if not (symmetric or has_crypto):
        raise ConfigurationError(f"{algorithms[0]} needs cryptography: pip install 'preview-proxy[crypto]'")
    if jwks_url is not None:
        if symmetric:
            raise ConfigurationError("HS algorithms have a shared secret, which no URL publishes: pass key=")
        return JWKS(jwks_url, algorithms).key
    keys = {name: _prepared(key, name) for name in algorithms}

    # A closure, so that no attribute, `repr` or pickle of its owner holds the key.
    async def the_key(kid: str | None, algorithm: str) -> Any:
        return keys[algorithm]

    return the_key


def _prepared(key: str | bytes | None, name: str) -> Any:
    """`key` parsed, if it is of the algorithm's type and long enough. The error never repeats the key."""
    prepared: Any = None
    problem = ""
    verifier = jwt.get_algorithm_by_name(name)
    try:
        prepared = verifier.prepare_key(key)
        prepared = prepared.public_key() if hasattr(prepared, "public_key") else prepared
        problem = verifier.check_key_length(prepared) or ""
    except Exception as error:
        problem = f"{type(error).__name__} while reading it"
    if problem:
        wanted = "a secret of at least 32 random bytes" if name.startswith("HS") else "a public key in PEM"
        raise ConfigurationError(f"key does not fit {name}, which takes {wanted}: {problem}")
    return prepared

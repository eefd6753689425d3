"""Tokens that are verified with the keys their issuer publishes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from preview_proxy.errors import CheckFailed
from preview_proxy.sessions import authenticate
from tests.test_jwt_sessions import PRIVATE, session_auth, token, visit

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def published(*entries: dict[str, Any]) -> AsyncIterator[str]:
    """The URL where an issuer publishes `entries`."""
    body = json.dumps({"keys": entries}).encode()

    async def publish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(publish, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"


async def test_a05_the_issuers_published_key_verifies_its_tokens() -> None:
    entry = jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE["ES256"].public_key(), True) | {"kid": "one"}
    with anyio.fail_after(5):
        async with published(entry) as url:
            authenticator = session_auth(key=None, jwks_url=url, algorithms=["ES256"])
            for kid, subject in [("one", "ann"), ("two", None), (None, None)]:
                text = token(header={"kid": kid} if kid else None, key=PRIVATE["ES256"], alg="ES256")
                session = await authenticator(visit(text))
                assert (session and session.subject) == subject
            forged = token(header={"kid": "one"}, key=ec.generate_private_key(ec.SECP256R1()), alg="ES256")
            assert await authenticator(visit(forged)) is None


async def test_a04_a_published_key_of_1024_bits_verifies_nothing() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        text = token(header={"kid": "one"}, key=weak, alg="RS256")
    with anyio.fail_after(5):
        async with published(jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key(), True) | {"kid": "one"}) as url:
            assert await session_auth(key=None, jwks_url=url, algorithms=["RS256"])(visit(text)) is None


async def test_a05_without_the_issuers_keys_a_token_fails_closed() -> None:
    async with published() as url:
        pass  # and nothing listens there any more
    authenticator = session_auth(key=None, jwks_url=url, algorithms=["ES256"])
    text = token(header={"kid": "one"}, key=PRIVATE["ES256"], alg="ES256")
    with anyio.fail_after(5), pytest.raises(CheckFailed, match="JWTSession failed with CheckFailed"):
        await authenticate(authenticator, visit(text), timeout=5)
    assert await authenticate(authenticator, visit("a.b.c"), timeout=5) is None, "what is no token needs no keys"

"""The keys that an issuer publishes (RFC 7517 §5), fetched without holding anyone up."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import jwt

from preview_proxy import event_loop
from preview_proxy.core.models import Origin
from preview_proxy.errors import CheckFailed, ConfigurationError
from preview_proxy.event_loop import Task

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024
MAX_KEYS = 64
# Seconds
FETCH_TIMEOUT = 5.0
REFRESH_AFTER = 8 * 60.0
TTL = 10 * 60.0
STALE_LIMIT = 60 * 60.0
RETRY_AFTER = 5.0
# An unknown `kid` may be a new key, or anything a stranger makes up. This one pause for all of them is the
# negative cache: one per `kid` would be memory for strangers to fill, and could hold up a new key for longer.
UNKNOWN_KID_PAUSE = 30.0

Keys = dict[tuple[str, str], jwt.PyJWK]
"""By `kid` and algorithm."""


class JWKS:
    """One issuer's key set: kept for 10 minutes, fetched anew in the background after 8.

    While a fetch fails, known keys stay good for an hour. A token with an unknown `kid` has the set fetched at
    most once in 30 s. An answer is at most 256 KiB and 64 keys, in at most 5 s, without redirects.

    `url` is https, or http on this computer. `clock` counts seconds. Raises `ConfigurationError` for another `url`.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = _checked(url)
        self._algorithms = tuple(algorithms)
        self._transport = transport or httpx.AsyncHTTPTransport(trust_env=False)
        self._clock = clock
        self._keys: Keys = {}
        self._fetched = self._attempted = -math.inf
        self._failure = ""
        self._under_way: anyio.Event | None = None
        self._task: Task | None = None

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of that name for that algorithm; None if the issuer has none.

        Raises `CheckFailed` while no answer of the last hour is known.
        """
        if kid is None:
            return None
        await self._freshen()
        if (kid, algorithm) not in self._keys:
            await self._refetch(UNKNOWN_KID_PAUSE)
        return self._keys.get((kid, algorithm))

    async def _freshen(self) -> None:
        age = self._clock() - self._fetched
        if age < REFRESH_AFTER:
            return
        if age < TTL or (age < STALE_LIMIT and self._failure):
            self._begin(UNKNOWN_KID_PAUSE)
            return
        await self._refetch(RETRY_AFTER)
        if self._clock() - self._fetched >= STALE_LIMIT:
            raise CheckFailed(detail=f"no JWKS: {self._failure}")

    async def _refetch(self, pause: float) -> None:
        self._begin(pause)
        if self._under_way is not None:
            await self._under_way.wait()

    def _begin(self, pause: float) -> None:
        """Start a fetch, unless one is under way or began less than `pause` seconds ago."""
        if self._under_way is not None or self._clock() - self._attempted < pause:
            return
        self._attempted = self._clock()
        self._under_way = anyio.Event()
        # a task of its own: a visitor who leaves does not end what others wait for
        self._task = event_loop.running().spawn(self._fetch(self._under_way))

    async def _fetch(self, done: anyio.Event) -> None:
        try:
            with anyio.fail_after(FETCH_TIMEOUT):
                body = await self._download()
            self._keys = _parse(body, self._algorithms)
            self._fetched = self._attempted
            self._failure = ""
        except Exception as error:
            self._failure = error.detail if isinstance(error, CheckFailed) else type(error).__name__
            logger.warning("JWKS of %s not fetched: %s", urlsplit(self._url).netloc, self._failure)
        finally:
            self._under_way = None
            done.set()

    async def _download(self) -> bytes:
        # Closing each connection leaves none to look after: the next fetch is minutes away.
        headers = {"accept": "application/jwk-set+json, application/json", "connection": "close"}
        extensions = {"timeout": httpx.Timeout(FETCH_TIMEOUT).as_dict()}
        request = httpx.Request("GET", self._url, headers=headers, extensions=extensions)
        response = await self._transport.handle_async_request(request)
        body = b""
        async with aclosing(response):
            if response.status_code != 200:
                raise CheckFailed(detail=f"status {response.status_code}")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise CheckFailed(detail=f"more than {MAX_BYTES} bytes")
        return body


def _checked(url: str) -> str:
    parts = urlsplit(url)
    secure = False
    with suppress(ValueError):
        origin = Origin.parse(f"{parts.scheme}://{parts.netloc}")
        secure = origin.scheme == "https" or (origin.scheme == "http" and origin.is_loopback)
    if not secure or parts.fragment:
        raise ConfigurationError("jwks_url must be an https URL without user name or fragment; http on localhost only")
    return url


def _parse(body: bytes, algorithms: tuple[str, ...]) -> Keys:
    document = json.loads(body)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise CheckFailed(detail="not a JWKS")
    if len(entries) > MAX_KEYS:
        raise CheckFailed(detail=f"more than {MAX_KEYS} keys")
    keys: Keys = {}
    for entry in entries:
        for algorithm in algorithms:
            key = _key(entry, algorithm)
            if key is not None:
                keys.setdefault((entry["kid"], algorithm), key)
    return keys


def _key(entry: Any, algorithm: str) -> jwt.PyJWK | None:
    """The entry as a key for `algorithm`, if it is a public one and meant for that (RFC 7517 §4)."""
    try:
        return jwt.PyJWK(entry, algorithm) if _serves(entry, algorithm) else None
    except Exception:  # whatever is wrong with one key, the others count
        return None


def _serves(entry: dict[str, Any], algorithm: str) -> bool:
    return (
        isinstance(entry["kid"], str)
        and entry.get("alg", algorithm) == algorithm
        and entry.get("use", "sig") == "sig"
        and "verify" in entry.get("key_ops", ["verify"])
        and "d" not in entry
    )

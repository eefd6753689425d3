"""What several workers share, in Redis: spent tickets, targets, and revocations.

    preview-proxy:ticket:…       spent, until it would have expired
    preview-proxy:target:…       a target, encrypted, until it expires
    preview-proxy:lock:…         who mints the next one, for some seconds
    preview-proxy:revocations:…  a stream, encrypted, for a day
    preview-proxy:epoch:…        when this memory began, and a random name for it

The names end in keyed hashes. The epoch tells a memory that was lost, by a restart without persistence, a flush or an
eviction, from one that never was: what was given out before it began may have been spent or withdrawn.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Any

from preview_proxy.core.models import Preview
from preview_proxy.errors import ConfigurationError
from preview_proxy.providers.held import Minted
from preview_proxy.providers.packed import pack, unpack
from preview_proxy.redis_revocations import EPOCH, RedisRevocations
from preview_proxy.sealing import Sealer
from preview_proxy.tickets import MAX_TICKET_TTL, long_enough

if TYPE_CHECKING:
    from redis.asyncio import Redis

CONNECT_TIMEOUT, ANSWER_TIMEOUT = 1.0, 2.0
"""Seconds for Redis to accept a connection, and to answer a command."""

MAX_CONNECTIONS = 32

MAX_GATE_TTL = 24 * 3600
"""Seconds that a gate may hold: revocations are kept for a little longer."""

# KEYS: epoch, ticket. ARGV: a new epoch's name, when the ticket expires, and when it was issued at the latest (ms).
# One of before the epoch may have been spent, and nobody would know.
_SPEND = (
    EPOCH
    + """
if tonumber(string.match(epoch, '^%d+')) > tonumber(ARGV[3]) then return 0 end
return redis.call('SET', KEYS[2], 1, 'NX', 'PXAT', ARGV[2]) and 1 or 0
"""
)
# KEYS: lock. ARGV: the token of whoever thinks to own it.
_UNLOCK = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


class RedisState:
    """What all workers and hosts share, in one object for three arguments:

        Tickets(..., store=state)
        PreviewProxy(..., revocations=state, targets=state)

    `url` is ``redis://[user:password@]host[:port][/number]``, ``rediss://`` over TLS, or ``unix://``: of one Redis,
    6.2 or later, that keeps what it was told (``appendonly yes``, ``maxmemory-policy noeviction``). `secret` is at
    least 32 random bytes, the same in every worker and another for each `PreviewProxy`: names are hashed and values
    encrypted with keys derived from it. Gates may hold for a day at most.

    Without Redis nobody is let in. Raises `ConfigurationError` for what could not work.
    """

    def __init__(self, url: str, *, secret: str | bytes) -> None:
        self._sealer = Sealer(long_enough(secret, "RedisState"))
        self._redis = _client(url)
        self._epoch = self._sealer.name("epoch")
        self._spend = self._redis.register_script(_SPEND)
        self._unlock = self._redis.register_script(_UNLOCK)
        self._revocations = RedisRevocations(self._redis, self._sealer, self._epoch)
        self.publish = self._revocations.publish
        self.listen = self._revocations.listen

    async def consume(self, ticket_id: str, expires_at: float) -> bool:
        """Whether this is the first use of the ticket; see `TicketStore`. Raises what Redis raises."""
        issued_at = math.floor(expires_at) - MAX_TICKET_TTL
        keys = [self._epoch, self._sealer.name("ticket", ticket_id)]
        times = math.ceil(expires_at * 1000), (issued_at + 1) * 1000
        first: object = await self._spend(keys=keys, args=[secrets.token_hex(8), *times])
        return first == 1

    async def load(self, preview: Preview) -> Minted | None:
        """The target that some worker minted for `preview`; None also where it cannot be read."""
        name = self._sealer.name("target", preview.key)
        sealed: Any = await self._redis.get(name)
        packed = None if sealed is None else self._sealer.unseal(name, sealed)
        return None if packed is None else unpack(packed)

    async def save(self, preview: Preview, minted: Minted) -> None:
        """Keep a target for the other workers until it expires; one that never does is not kept."""
        if minted.target.expires_at is not None:
            name = self._sealer.name("target", preview.key)
            await self._redis.set(
                name, self._sealer.seal(name, pack(minted)), pxat=math.floor(minted.target.expires_at * 1000)
            )

    async def lock(self, preview: Preview, seconds: float) -> str | None:
        """A token if nobody else mints for `preview`, else None."""
        token = secrets.token_hex(8)
        name = self._sealer.name("lock", preview.key)
        return token if await self._redis.set(name, token, nx=True, px=math.ceil(seconds * 1000)) else None

    async def unlock(self, preview: Preview, token: str) -> None:
        """Let others mint for `preview`."""
        await self._unlock(keys=[self._sealer.name("lock", preview.key)], args=[token])

    async def aclose(self) -> None:
        """Close the connections. The proxy that it was given to does this at shutdown."""
        await self._redis.aclose()

    def __repr__(self) -> str:
        return "RedisState(****)"


def _client(url: str) -> Redis:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise ConfigurationError("pip install 'preview-proxy[redis]' to share state through Redis") from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=CONNECT_TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=ANSWER_TIMEOUT,
            retry=Retry(NoBackoff(), 1),  # for a connection that Redis closed while it was idle
        )
        return Redis.from_pool(pool)
    except (ValueError, TypeError):
        pass
    # Outside the block above: the URL may hold a password.
    raise ConfigurationError("the url of RedisState must be such as redis://host:6379/0, rediss://… or unix://…")

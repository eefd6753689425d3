"""Revocations in Redis: every worker appends to one stream, and reads it on from where it was.

It is a stream and not a channel: `XREAD` waits for the next entry as a subscription would, and whoever was away misses
none. Each answer, also an empty one, proves that the connection lives; without one in time, touch is lost.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from preview_proxy.core.models import Preview
from preview_proxy.revocation import Revocation
from preview_proxy.sealing import Sealer

if TYPE_CHECKING:
    from redis.asyncio import Redis

BLOCK = 1.0
"""Seconds that Redis waits for an entry before it answers that there is none; less than an answer may take."""

RETENTION = 25 * 3600
"""Seconds for which entries are kept: longer than the gates hold that they void."""

BATCH = 1000
FIELD = b"revocation"

# The name of this memory, which begins in the millisecond before its dash. KEYS: epoch. ARGV: a new one's name.
EPOCH = """
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  local now = redis.call('TIME')
  epoch = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)) .. '-' .. ARGV[1]
  redis.call('SET', KEYS[1], epoch)
end
"""


class RedisRevocations:
    """The stream. `epoch` is the name under which the memory's beginning is kept."""

    def __init__(self, redis: Redis, sealer: Sealer, epoch: str) -> None:
        self._redis = redis
        self._sealer = sealer
        self._epoch = epoch
        self._read_epoch = redis.register_script(EPOCH + "return epoch")
        self._stream = sealer.name("revocations")
        self._apply: Callable[[Revocation], object] | None = None
        self._known_epoch: bytes | None = None
        self._last = b"0"

    async def publish(self, revocation: Revocation) -> None:
        """Append `revocation`, for every worker and for those that come later. Raises what Redis raises."""
        sealed = self._sealer.seal(self._stream, _pack(revocation))
        oldest = int((time.time() - RETENTION) * 1000)
        await self._redis.xadd(self._stream, {FIELD: sealed}, minid=oldest, approximate=True)

    async def listen(self, apply: Callable[[Revocation], object], ready: Callable[[], None]) -> None:
        """Tell of every revocation that is kept, call `ready`, and tell of each that comes. Raises what Redis raises.

        The next time it goes on from there, so it is for one `apply` only: `RuntimeError` for another. A memory that
        begins anew has lost what was revoked before, so everything of before is.
        """
        if self._apply not in (None, apply):
            raise RuntimeError("give each PreviewProxy a RedisState of its own")
        self._apply, block = apply, None
        while True:
            epoch: Any = await self._read_epoch(keys=[self._epoch], args=[secrets.token_hex(8)])
            if epoch != self._known_epoch:
                self._known_epoch, self._last = epoch, b"0"
                apply(Revocation(None, None, None, int(epoch.partition(b"-")[0]) / 1000))
            answer: Any = await self._redis.xread({self._stream: self._last}, count=BATCH, block=block)
            entries = answer[0][1] if answer else ()
            for self._last, fields in entries:
                packed = self._sealer.unseal(self._stream, fields.get(FIELD, b""))
                if packed is not None:
                    apply(_unpack(packed))
            if len(entries) < BATCH:
                ready()
                block = int(BLOCK * 1000)


def _pack(revocation: Revocation) -> bytes:
    preview = revocation.preview
    place = None if preview is None else [preview.machine, preview.port, preview.generation]
    return json.dumps([revocation.subject, place, revocation.session, revocation.at]).encode()


def _unpack(packed: bytes) -> Revocation:
    subject, place, session, at = json.loads(packed)
    return Revocation(subject, None if place is None else Preview(*place), session, at)

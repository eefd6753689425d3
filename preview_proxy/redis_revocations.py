"""Revocations in Redis: every worker appends to one stream, follows it, and knows how sure it is to have heard all.

It is a stream and not a channel: `XREAD` waits for the next entry as a subscription would, and whoever was away reads
on from the last one they saw. Each answer, also an empty one, proves that nothing was missed until it was asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

from preview_proxy.core.models import Preview
from preview_proxy.errors import CheckFailed
from preview_proxy.revocation import Revocation
from preview_proxy.sealed import Sealer

if TYPE_CHECKING:
    from redis.asyncio import Redis

STALE_AFTER = 5.0
"""Seconds without a word from Redis after which a revocation may have been missed for too long."""

BLOCK = 1.0
"""Seconds that Redis waits for an entry before it answers that there is none; less than an answer may take."""

PAUSE = 0.25
"""Seconds between two attempts to reach Redis."""

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

logger = logging.getLogger("preview_proxy")


class Listener(Protocol):
    """Who acts upon what is heard: one worker's `PreviewProxy`."""

    def revoked(self, revocation: Revocation) -> object:
        """Somebody's access was taken back."""
        ...

    def began(self, at: float) -> object:
        """Nobody remembers what was taken back before `at` (Unix seconds)."""
        ...

    def blind(self) -> object:
        """Something may have been taken back that nobody could tell us of."""
        ...


class RedisRevocations:
    """The stream, and this worker's place in it. `redis` is closed with it."""

    def __init__(self, redis: Redis, sealer: Sealer) -> None:
        self.epoch = sealer.name("epoch")
        self._redis = redis
        self._sealer = sealer
        self._stream = sealer.name("revocations")
        self._known_epoch: bytes | None = None
        self._last = b"0"
        self._heard = float("-inf")
        self._is_blind = False
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()

    @property
    def is_current(self) -> bool:
        """Whether everything is known that was taken back more than `STALE_AFTER` seconds ago."""
        return time.monotonic() - self._heard < STALE_AFTER

    def follow(self, listener: Listener) -> None:
        """Tell `listener` of what was revoked, what is, and what nobody can tell; once, until `aclose`."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.get_loop() is not loop:
            self._tried = asyncio.Event()
            self._task = loop.create_task(self._follow(listener))

    async def check(self) -> None:
        """Raise `CheckFailed` unless `is_current`. The first time, it waits for an answer; later it knows."""
        await self._tried.wait()
        if not self.is_current:
            raise CheckFailed(detail="Redis does not answer, and a revocation could have been missed")

    async def publish(self, revocation: Revocation, keep: float) -> None:
        """Tell the others, and those who come within `keep` seconds. Raises `CheckFailed` if that is not certain."""
        oldest = int((time.time() - keep) * 1000)
        sealed = self._sealer.seal(self._stream, _pack(revocation))
        failure = ""
        try:
            await self._redis.xadd(self._stream, {FIELD: sealed}, minid=oldest, approximate=True)
        except Exception as error:
            failure = type(error).__name__
        if failure:
            raise CheckFailed(detail=f"Redis did not take the revocation: {failure}")

    async def _follow(self, listener: Listener) -> None:
        complained = False
        while True:
            failure = ""
            try:
                await self._read(listener)
                complained = False
            except Exception as error:
                failure = type(error).__name__
            self._tried.set()
            if failure:
                if not complained:
                    logger.warning("Redis does not answer: %s", failure)
                complained = True
                self._notice(listener)
                await asyncio.sleep(PAUSE)

    def _notice(self, listener: Listener) -> None:
        if not self.is_current and not self._is_blind:
            self._is_blind = True
            listener.blind()

    async def _read(self, listener: Listener) -> None:
        """Take the next entries, or learn that there are none."""
        asked = time.monotonic()
        epoch: Any = await self._redis.eval(EPOCH + "return epoch", 1, self.epoch, secrets.token_hex(8))
        if epoch != self._known_epoch:
            if self._known_epoch is not None:
                logger.warning("Redis has lost its memory: gates and tickets of before are void")
                listener.blind()
            self._known_epoch, self._last = epoch, b"0"
            listener.began(int(epoch.partition(b"-")[0]) / 1000)
        # the first time without waiting, so that visitors do not
        block = int(BLOCK * 1000) if self.is_current else None
        answer: Any = await self._redis.xread({self._stream: self._last}, count=BATCH, block=block)
        entries = answer[0][1] if answer else ()
        for name, fields in entries:
            self._last = name
            if (revocation := self._unpack(fields)) is not None:
                listener.revoked(revocation)
        if len(entries) < BATCH:
            self._heard, self._is_blind = asked, False

    def _unpack(self, fields: dict[bytes, bytes]) -> Revocation | None:
        packed = self._sealer.unseal(self._stream, fields.get(FIELD, b""))
        if packed is None:
            return None
        subject, preview, session, at = json.loads(packed)
        return Revocation(subject, None if preview is None else Preview(*preview), session, at)

    async def aclose(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._heard = float("-inf")
        await self._redis.aclose()


def _pack(revocation: Revocation) -> bytes:
    preview = revocation.preview
    place = None if preview is None else [preview.machine, preview.port, preview.generation]
    return json.dumps([revocation.subject, place, revocation.session, revocation.at]).encode()

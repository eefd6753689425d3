"""Masking (RFC 6455 §5.3): XOR with a four-byte key, by websockets' C function, for Python takes far longer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import iter_unpack

try:
    from websockets.speedups import apply_mask as apply_mask
except ImportError:  # pragma: no cover - a platform without a compiled wheel
    from websockets.utils import apply_mask as apply_mask


class _Keys:
    """Keys from the system's source of randomness (§10.3), which is asked for many at a time: a call costs more."""

    def __init__(self) -> None:
        self._page: Iterator[tuple[bytes]] = iter(())

    def __call__(self) -> bytes:
        for (key,) in self._page:  # one step of C, so that no two threads get the same
            return key
        self._page = iter_unpack("4s", os.urandom(1024))
        return self()


new_key = _Keys()

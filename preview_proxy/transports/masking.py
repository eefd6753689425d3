"""XOR with a four-byte key (RFC 6455 §5.3), by websockets' C function: Python's own is a hundred times slower."""

from __future__ import annotations

try:
    from websockets.speedups import apply_mask as apply_mask
except ImportError:  # pragma: no cover - a platform without a compiled wheel
    from websockets.utils import apply_mask as apply_mask

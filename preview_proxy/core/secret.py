"""A credential that cannot be printed, logged, pickled, copied or compared by accident."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """A bearer credential held as bytes; `reveal()` is the only way to its value.

    Every textual form is ``Secret(****)``. Pickling, copying and hashing raise `TypeError`, because each of
    them makes a second holder of the value. Equality is constant-time.

    Raises `ValueError` unless the value is 8 to 8192 visible ASCII characters: anything else could not be
    sent as one header value (RFC 9110 §5.5), and a short one is a mistake.
    """

    __slots__ = ("__value",)
    __value: bytes

    def __init__(self, value: str | bytes) -> None:
        # "surrogatepass": an encoding error would hold the value
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
        if not 8 <= len(raw) <= 8192:
            raise ValueError(f"a credential must be 8 to 8192 bytes long, this one has {len(raw)}")
        if not all(0x21 <= byte <= 0x7E for byte in raw):
            raise ValueError("a credential must be visible ASCII without spaces; check for a stray newline or quote")
        object.__setattr__(self, "_Secret__value", raw)

    def reveal(self) -> bytes:
        """The value itself. Call it where the header is written, and nowhere else."""
        return self.__value

    def occurs_in(self, text: bytes) -> bool:
        """Whether `text` repeats the value, as an upstream that echoes its request headers would."""
        return self.__value in text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.__value, other.__value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Secret(****)"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")

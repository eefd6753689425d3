"""Names that tell nothing and values that only we can read, for a store that others may look into."""

from __future__ import annotations

import hmac
import os

from preview_proxy.errors import ConfigurationError

_NONCE = 12  # bytes, NIST SP 800-38D §8.2.2


class Sealer:
    """Hashes names and encrypts values (AES-256-GCM), with keys derived from `secret` by HKDF (RFC 5869).

    A value is bound to its name: under another name it cannot be read. Raises `ConfigurationError` where the package
    ``cryptography`` is not installed.
    """

    def __init__(self, secret: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError:
            raise ConfigurationError(
                "pip install 'preview-proxy[redis]': values are encrypted by cryptography"
            ) from None
        self._invalid = InvalidTag
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, b"preview-proxy values").derive(secret))
        self._names = HKDF(SHA256(), 32, None, b"preview-proxy names").derive(secret)

    def name(self, kind: str, text: str = "") -> str:
        """The name under which `text` is kept as a `kind`."""
        return f"preview-proxy:{kind}:{hmac.digest(self._names, f'{kind} {text}'.encode(), 'sha256').hex()}"

    def seal(self, name: str, value: bytes) -> bytes:
        """`value`, encrypted for `name`."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, value, name.encode())

    def unseal(self, name: str, sealed: bytes) -> bytes | None:
        """The value, or None for what was not sealed for `name` with this secret."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
        except (self._invalid, ValueError):
            return None

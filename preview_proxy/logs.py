"""Other libraries' loggers, which do not know what is secret here."""

from __future__ import annotations

import logging

# Below these levels they write header fields, and with them cookies, or whole URLs, and with them one-time codes.
# A filter is asked by its own logger only, so the parents are not named, but those who write.
_LOUD = {
    "hpack.hpack": logging.INFO,
    "hpack.table": logging.INFO,
    "httpcore.connection": logging.INFO,
    "httpcore.http11": logging.INFO,
    "httpcore.http2": logging.INFO,
    "httpcore.proxy": logging.INFO,
    "httpx": logging.WARNING,
    "uvicorn.error": logging.INFO,  # the handshakes of its WebSockets
    "websockets.client": logging.INFO,
    "websockets.protocol": logging.INFO,
    "websockets.server": logging.INFO,
}


class _AtLeast(logging.Filter):
    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self._level


def redact_logging() -> None:
    """Drop the log records in which httpx, httpcore, hpack, websockets and uvicorn show header fields and queries.

    Those are records of DEBUG, and of INFO for httpx. Call it once, where you set up logging; whatever level these
    loggers are set to then or later, the records do not come back. Nothing of this library's own is affected.
    """
    for name, level in _LOUD.items():
        logger = logging.getLogger(name)
        if not any(isinstance(present, _AtLeast) for present in logger.filters):
            logger.addFilter(_AtLeast(level))

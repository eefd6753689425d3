"""A request for any httpx transport whose credentials only the transport sees.

What wraps a transport, as tracing does, reads a request's headers: by name, in a loop, or as a copy. Only the transport
itself writes `request.headers.raw` to the wire, so the credentials are in that, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx

from preview_proxy.core.secret import Secret

Credentials = tuple[tuple[bytes, bytes, Secret], ...]
"""Each: the name of a header, what stands before the secret (such as ``Bearer ``, RFC 9110 §11.4), and the secret."""


class _Headers(httpx.Headers):
    def __init__(self, headers: Any, credentials: Credentials) -> None:
        super().__init__(headers)
        self._credentials = credentials

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [*super().raw, *((name, before + secret.reveal()) for name, before, secret in self._credentials)]


class SealedRequest(httpx.Request):
    """An `httpx.Request` that is sent with `credentials` after its `headers`, also where something replaces those."""

    def __init__(
        self,
        method: str,
        url: httpx.URL | str,
        headers: Iterable[tuple[bytes, bytes]],
        credentials: Credentials,
        **options: Any,
    ) -> None:
        self._credentials: Credentials = ()  # httpx copies `raw` as it adds headers of its own
        super().__init__(method, url, headers=list(headers), **options)
        self._credentials = credentials
        self.headers = self._headers

    @property
    def headers(self) -> httpx.Headers:
        return self._headers

    @headers.setter
    def headers(self, headers: httpx.Headers) -> None:
        self._headers = _Headers(headers, self._credentials)

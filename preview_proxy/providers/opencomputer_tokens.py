"""The preview tokens of OpenComputer's sandboxes, and how one is replaced under way.

OpenComputer tells a token once, when it is made, and keeps only its digest. So whoever made it has to keep it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Protocol

import anyio

from preview_proxy.core.secret import Secret
from preview_proxy.errors import PreviewProxyError


class PreviewTokens(Protocol):
    """Where the tokens are kept, by sandbox: a table of your database, encrypted. A dict does for one process."""

    async def get(self, sandbox: str) -> str | Secret | None:
        """The sandbox's token, None where it has none."""
        ...

    async def set(self, sandbox: str, token: str) -> None:
        """Keep a new one in the old one's place, before anybody asks again."""
        ...


class DictTokens:
    """Tokens in a mapping of the customer's. A closure holds it, so that no attribute shows them."""

    def __init__(self, tokens: MutableMapping[str, str]) -> None:
        for token in tokens.values():
            Secret(token)

        async def get(sandbox: str) -> str | None:
            return tokens.get(sandbox)

        async def put(sandbox: str, token: str) -> None:
            tokens[sandbox] = token

        self.get = get
        self.set = put


class Rotation:
    """Reads tokens, and holds the readers of one that is being replaced until the next is kept."""

    def __init__(self, tokens: PreviewTokens) -> None:
        self._tokens = tokens
        self._rotating: dict[str, anyio.Event] = {}
        self._unkept: dict[str, Secret] = {}
        self._begun = 0
        self.forget: list[Callable[[str], None]] = []

    async def token(self, sandbox: str) -> Secret | None:
        """The sandbox's token. Raises what `PreviewTokens.get` raises, and `ValueError` for what no header carries."""
        while True:
            while (rotating := self._rotating.get(sandbox)) is not None:
                await rotating.wait()
            begun = self._begun
            token = self._unkept.get(sandbox) or await self._tokens.get(sandbox)
            if begun == self._begun:  # else what was read may be the old one already
                return Secret(token) if isinstance(token, str) else token

    async def rotate(
        self, sandbox: str, issue: Callable[[], Awaitable[Secret | PreviewProxyError]]
    ) -> PreviewProxyError | None:
        """Replace the token by what `issue` returns, or say why not. Raises what `PreviewTokens.set` raises.

        `issue` bounds its own time, and cannot be cancelled. A new token that could not be kept serves in this process,
        for nobody tells it again.
        """
        while (rotating := self._rotating.get(sandbox)) is not None:
            await rotating.wait()
        self._begun += 1
        done = self._rotating[sandbox] = anyio.Event()
        try:
            for forget in self.forget:
                forget(sandbox)
            with anyio.CancelScope(shield=True):  # an answer that nobody reads is a token that nobody has
                issued = await issue()
            if isinstance(issued, PreviewProxyError):
                return issued
            self._unkept[sandbox] = issued
            await self._tokens.set(sandbox, issued.reveal().decode())
            del self._unkept[sandbox]
            return None
        finally:
            del self._rotating[sandbox]
            done.set()

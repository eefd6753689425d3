"""What emulated APIs share: JSON in, JSON out, and a record of every request."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from preview_proxy.testing.edge import Refusal, Refused
from preview_proxy.testing.http_server import HttpServer, Received, Request, Response
from preview_proxy.testing.tcp import Changes

T = TypeVar("T")
Json = dict[str, Any]
JSON_TYPE = ("Content-Type", "application/json")


class ApiRequest(NamedTuple):
    """A request as it reached the API; `json` is None where it had no body."""

    method: str
    path: str
    json: Any


class Created(NamedTuple):
    """A document that is answered with 201."""

    document: object


class JsonApiServer(HttpServer):
    """Answers JSON on plain HTTP."""

    def __init__(self, changes: Changes) -> None:
        super().__init__(changes=changes)
        self.requests: list[ApiRequest] = []

    @abstractmethod
    async def call(self, received: Received, body: Json | None) -> object:
        """The document that answers the request; None for 204, `Created` for 201. Raises `Refused`."""

    @abstractmethod
    def refusal(self, refused: Refused) -> Refusal:
        """How a refusal is said."""

    async def respond(self, request: Request, response: Response) -> None:
        raw, received = await request.read(), request.received
        try:
            body = read_json(raw)
            self.requests.append(ApiRequest(received.method.decode(), received.path, body))
            self.changes.notify()
            document = await self.call(received, body)
        except Refused as refused:
            return await response.send(*self.refusal(refused))
        if document is None:
            return await response.send(204)
        status, document = (201, document.document) if isinstance(document, Created) else (200, document)
        await response.send(status, [JSON_TYPE], json.dumps(document).encode())


def read_json(raw: bytes) -> Json | None:
    """The body's JSON object, or None where there is no body. Raises `Refused` for anything else."""
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        raise Refused("invalid_request") from None
    if body is not None and not isinstance(body, dict):
        raise Refused("invalid_request")
    return body


class Route(NamedTuple):
    """A method and a path with ``{names}``, and what answers them."""

    method: str
    path: re.Pattern[str]
    answer: Callable[..., Awaitable[object]]


def route(method: str, path: str, answer: Callable[..., Awaitable[object]]) -> Route:
    return Route(method, re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)), answer)


def matched(routes: Iterable[Route], received: Received) -> tuple[Route, dict[str, str]]:
    """The route for a request and the parts of its path. Raises `Refused` where there is none."""
    for known in routes:
        match = known.path.fullmatch(received.path)
        if known.method == received.method.decode() and match:
            return known, {name: unquote(text) for name, text in match.groupdict().items()}
    raise Refused("not_found")

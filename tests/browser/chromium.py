"""Debian's Chromium, and a record of all that its pages ask for and say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, async_playwright

from tests.programs import need

ARGUMENTS = (
    "--no-sandbox",  # Chromium's own needs more rights than root in a container has
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # The last such switch counts. Playwright's turns storage partitioning off, which every visitor's browser has on.
    "--disable-features=MediaRouter,OptimizationHints,NetworkTimeServiceQuerying,PreconnectToSearch",
)


@asynccontextmanager
async def chromium(*arguments: str) -> AsyncIterator[Browser]:
    """A fresh browser; without Chromium the test is skipped."""
    program = need("chromium")
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS, *arguments]) as browser,
    ):
        yield browser


@dataclass
class Watch:
    """What the pages and frames of one visitor asked for, from the moment this is made."""

    context: BrowserContext
    requests: list[Request] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    console: list[ConsoleMessage] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # playwright marks what it calls, which a list's own method does not allow
        self.context.on("request", lambda request: self.requests.append(request))
        self.context.on("response", lambda response: self.responses.append(response))
        self.context.on("requestfailed", lambda request: self.failures.append(f"{request.url} {request.failure}"))
        self.context.on("console", lambda message: self.console.append(message))
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.on("page", lambda page: page.on("websocket", lambda socket: self.sockets.append(socket.url)))

    @property
    def complaints(self) -> list[str]:
        """Every console message that is a warning or an error."""
        return [message.text for message in self.console if message.type in ("warning", "error")] + self.errors

    @property
    def words(self) -> list[str]:
        """Every text that could give a secret away: addresses, console messages and errors."""
        return [
            *(request.url for request in self.requests),
            *self.sockets,
            *self.failures,
            *(f"{message.text} {message.location}" for message in self.console),
            *self.errors,
        ]


async def history(page: Page) -> list[str]:
    """The addresses in a tab's history."""
    session = await page.context.new_cdp_session(page)
    entries = (await session.send("Page.getNavigationHistory"))["entries"]
    await session.detach()
    return [address for entry in entries for address in (entry["url"], entry["userTypedURL"])]

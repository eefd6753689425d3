"""The documentation is true: its code runs, its links lead somewhere, and what it names exists."""

from __future__ import annotations

import ast
import builtins
import logging
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import websockets
from fastapi import FastAPI
from starlette.types import ASGIApp

import preview_proxy
import preview_proxy.logs
import preview_proxy.testing
from docs.generate import pages
from preview_proxy import Origin, Preview, errors
from preview_proxy.endpoints import PREFIX
from preview_proxy.providers import api, base, digitorn, opencomputer_tokens
from preview_proxy.testing import DevServer, NullspaceEmulator
from tests.markdown import blocks, files, outside_blocks
from tests.redis_server import redis_server
from tests.servers import listening, serving

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=IDS)

ENVIRONMENT = {
    "ACORN_TOKEN": "token of a made-up provider",
    "BL_API_KEY": "key-for-the-documentation",
    "BL_WORKSPACE": "acme",
    "DAYTONA_API_KEY": "key-for-the-documentation",
    "DO_NOT_TRACK": "1",
    "E2B_API_KEY": "key-for-the-documentation",
    "NULLSPACE_API_KEY": "key-for-the-documentation",
    "NULLSPACE_API_URL": "https://api.nullspace.example",
    "OPENCOMPUTER_API_KEY": "key-for-the-documentation",
    "REDIS_URL": "redis://redis.example:6379/0",
    "PREVIEW_SECRET": "secret of the documentation, 32 bytes",
    "SESSION_SECRET": "secret of the sessions",
}
SESSION = PREFIX.decode() + "session"
# Names on the pages that are other projects' or browsers'.
FOREIGN = {"GZipMiddleware", "SameSite", "SessionMiddleware", "TrustedHostMiddleware", "application/json", "text/plain"}


@dataclass
class User:
    id: str
    session_id: str = "login-1"
    session_expires_at: float | None = None


@pytest.fixture(autouse=True)
def acme(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The reader's own app, as far as the pages import it, and the reader's environment."""

    async def current_user() -> User:
        return User("ada")

    async def machine_of(project: str) -> str:
        return "mch_a1b2c3d4"

    async def may_see(user: str, machine: str) -> bool:
        return user == "ada"

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value.replace(" ", "-"))
    module = ModuleType("acme")
    for function in (User, current_user, machine_of, may_see):
        setattr(module, function.__name__, function)
    for name in ("domains", "projects", "proxy", "sessions", "users"):
        setattr(module, name, SimpleNamespace())
    module.app = FastAPI()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acme", module)
    return module


@pytest.fixture(autouse=True)
def filters() -> Iterator[None]:
    """What a page shows how to set up is for the reader's process, not for ours."""
    loggers = [logging.getLogger(name) for name in preview_proxy.logs._LOUD]
    before = [list(logger.filters) for logger in loggers]
    yield
    for logger, kept in zip(loggers, before, strict=True):
        logger.filters = kept


def run(page: Path) -> dict[str, Any]:
    """What a reader has after typing every block of a page that is not a file of its own."""
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks(page):
        code = block.compile()
        if block.file is None:
            exec(code, namespace)
    return namespace


async def open_preview(
    browser: httpx.AsyncClient, route: str, embedder: str, **kwargs: Any
) -> tuple[httpx.URL, dict[str, str]]:
    """A preview's origin and the visitor's cookie, by the exchange that the pages describe."""
    opened = await browser.post(route, **kwargs)
    assert opened.status_code == 200, opened.text
    origin = httpx.URL(opened.json()["origin"])
    headers = {"host": origin.netloc.decode(), "origin": embedder}
    exchanged = await browser.post(SESSION, headers=headers, json={"ticket": opened.json()["ticket"]})
    assert exchanged.status_code == 204, exchanged.text
    cookie = exchanged.headers["set-cookie"].partition(";")[0]
    return origin, {"host": origin.netloc.decode(), "cookie": cookie}


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    listener = listening()
    port = listener.getsockname()[1]
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10)
    async with serving(app, listener), client as browser:
        yield browser


# What is on the pages


@pytest.mark.parametrize("name", pages())
def test_the_reference_is_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text("utf-8")
    assert written == pages()[name], "run `python -m docs.generate`"


@every_page
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", outside_blocks(page)):
        if not target.startswith("https://"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*/*.md"):
        assert f"({page.relative_to(ROOT / 'docs')})" in index


@every_page
def test_every_file_named_exists(page: Path) -> None:
    text = re.sub(r"`[^`]*python -m[^`]*`", "", outside_blocks(page))
    own = {name for other in PAGES for name in files(other)}
    for name in re.findall(r"`((?:[\w-]+/)+[\w.-]*|\w+\.py)`", text):
        found = any((folder / name).exists() for folder in (ROOT, ROOT / "preview_proxy"))
        assert found or name in own | FOREIGN, name


@every_page
def test_every_class_named_exists(page: Path) -> None:
    known = FOREIGN | set(dir(builtins))
    for module in (preview_proxy, errors, api, base, digitorn, opencomputer_tokens, preview_proxy.testing):
        known |= set(dir(module))
    for block in blocks(page):
        known |= {node.name for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.ClassDef)}
    for name in re.findall(r"`(?:preview_proxy\.)?([A-Z][a-z]+[A-Z]\w+)", outside_blocks(page)):
        assert name in known, name


@every_page
def test_every_attribute_and_argument_named_exists(page: Path) -> None:
    text = outside_blocks(page)
    for owner, name in re.findall(r"`(\w+)\.(\w+)", text):
        if owner in preview_proxy.__all__:
            assert hasattr(getattr(preview_proxy, owner), name), f"{owner}.{name}"
    for owner, name in re.findall(r"`(\w+)\((\w+)=", text):
        if owner in preview_proxy.__all__:
            assert name in getattr(preview_proxy, owner).__init__.__annotations__, f"{owner}({name}=)"


@every_page
def test_every_control_address_exists(page: Path) -> None:
    named = re.findall(re.escape(PREFIX.decode()) + r"(\w+)", page.read_text("utf-8"))
    assert set(named) <= {"session", "check", "logout"}


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\$ make (\w+)", (ROOT / "README.md").read_text("utf-8")):
        assert f"\n{target}:" in makefile


def test_the_screenshot_is_small_enough_to_keep() -> None:
    assert (ROOT / "docs/images/demo.png").stat().st_size < 300_000


# The code


@every_page
def test_every_block_runs(page: Path) -> None:
    run(page)


@pytest.fixture
def emulated_edge(monkeypatch: pytest.MonkeyPatch) -> Callable[[NullspaceEmulator], None]:
    """Send the pages' `Nullspace(api_key=...)` to an emulator: only the provider's addresses change."""

    def apply(nullspace: NullspaceEmulator) -> None:
        monkeypatch.setenv("NULLSPACE_API_URL", nullspace.api_url)
        monkeypatch.setenv("NULLSPACE_API_KEY", nullspace.api_key)
        emulated = partial(preview_proxy.Nullspace, domains=[nullspace.edge_domain], allow_insecure_loopback=True)
        monkeypatch.setattr(preview_proxy, "Nullspace", emulated)

    return apply


@pytest.mark.anyio
async def test_the_readmes_app_shows_a_preview(emulated_edge: Callable[[NullspaceEmulator], None]) -> None:
    async with AsyncExitStack() as stack:
        dev = await stack.enter_async_context(DevServer())
        nullspace = await stack.enter_async_context(NullspaceEmulator())
        nullspace.add_machine("mch_a1b2c3d4", {3000: dev})
        emulated_edge(nullspace)
        namespace: dict[str, Any] = {}
        exec(blocks(ROOT / "README.md")[0].compile(), namespace)
        browser = await stack.enter_async_context(served(namespace["app"]))
        stack.enter_context(anyio.fail_after(20))

        embedder = "https://app.acme.com"
        origin, visitor = await open_preview(browser, "/projects/42/preview", embedder)
        assert str(origin) == "https://3000-mch_a1b2c3d4.acme-previews.dev"
        assert "It works" in (await browser.get("/", headers=visitor)).text
        assert (await browser.get("/", headers={"host": visitor["host"]})).status_code == 401
        async with websockets.connect(
            f"ws://{origin.host}/ws",
            host="127.0.0.1",
            port=browser.base_url.port,
            origin=websockets.Origin(str(origin)),
            additional_headers={"cookie": visitor["cookie"]},
            proxy=None,
        ) as websocket:
            await websocket.send("hello")
            assert await websocket.recv() == "hello"
        assert all(received.values(b"cookie") == [] for received in dev.received)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["middleware", "app", "route"])
async def test_the_three_ways_to_mount(way: str, emulated_edge: Callable[[NullspaceEmulator], None]) -> None:
    async with AsyncExitStack() as stack:
        dev = await stack.enter_async_context(DevServer())
        nullspace = await stack.enter_async_context(NullspaceEmulator())
        nullspace.add_machine("mch_a1b2c3d4", {3000: dev})
        emulated_edge(nullspace)
        readme = blocks(ROOT / "README.md")
        namespace: dict[str, Any] = {}
        exec(readme[0].compile(), namespace)
        app, proxy = FastAPI(), namespace["proxy"]
        namespace["app"] = app
        mounts = {"middleware": "add_middleware", "route": "app.host"}
        if way in mounts:
            exec(next(block for block in readme[1:] if mounts[way] in block.code).compile(), namespace)
        browser = await stack.enter_async_context(served(proxy if way == "app" else app))
        stack.enter_context(anyio.fail_after(20))

        embed = await proxy.ticket(Preview("mch_a1b2c3d4", 3000), subject="ada")
        host = embed.origin.removeprefix("https://")
        headers = {"host": host, "origin": "https://app.acme.com"}
        exchanged = await browser.post(SESSION, headers=headers, json={"ticket": embed.ticket})
        cookie = exchanged.headers["set-cookie"].partition(";")[0]
        shown = await browser.get("/", headers={"host": host, "cookie": cookie})
        assert "It works" in shown.text
        elsewhere = await browser.get("/", headers={"host": "www.acme.com"})
        assert elsewhere.status_code == (421 if way == "app" else 404)
        await proxy.aclose()


@pytest.mark.anyio
async def test_the_tutorial_leads_where_it_says(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, code in files(ROOT / "docs" / "tutorial.md").items():
        (tmp_path / name).write_text(code.replace("8000", str(port)))
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(40))
        exports = await stack.enter_async_context(running(tmp_path, "machine.py", until="NULLSPACE_API_KEY="))
        provider = dict(pair.split("=", 1) for pair in exports.split() if "=" in pair)
        command = ("-m", "uvicorn", "main:app", "--port", str(port))
        await stack.enter_async_context(running(tmp_path, *command, until="Uvicorn running", **provider))
        browser = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10)
        )
        app = {"host": f"app.localhost:{port}"}
        assert "<iframe" in (await browser.get("/", headers=app)).text
        origin, visitor = await open_preview(browser, "/preview", f"http://app.localhost:{port}", headers=app)
        assert str(origin) == f"http://3000-mch_aurora.preview.localhost:{port}"
        assert visitor["cookie"].startswith("pp-development=")
        assert "It works" in (await browser.get("/", headers=visitor)).text
        assert (await browser.get("/", headers={"host": visitor["host"]})).status_code == 401
        assert (await browser.get("/", headers={"host": f"hello.preview.localhost:{port}"})).status_code == 421


@asynccontextmanager
async def running(folder: Path, *arguments: str, until: str, **environment: str) -> AsyncIterator[str]:
    """A Python process in `folder`, and what it had printed when it printed `until`."""
    everything = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    async with await anyio.open_process([sys.executable, *arguments], cwd=folder, env=everything, stderr=-2) as process:
        try:
            assert process.stdout is not None
            said = ""
            while until not in said or not said.endswith("\n"):
                said += (await process.stdout.receive()).decode()
            yield said
        finally:
            process.terminate()


@pytest.mark.anyio
async def test_the_readers_test_passes(tmp_path: Path) -> None:
    for name, code in files(ROOT / "docs/how-to/test-with-the-emulator.md").items():
        (tmp_path / name).write_text(code)
    assert b"2 passed" in await readers_tests(tmp_path)


async def readers_tests(folder: Path) -> bytes:
    """What pytest says about the tests that a reader has saved in `folder`. They must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with anyio.fail_after(60):
        outcome = await anyio.run_process([*command, "."], cwd=folder, env=environment, check=False)
    assert outcome.returncode == 0, outcome.stdout.decode()
    return outcome.stdout


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["rehearse", "truncate"])
async def test_the_emulators_switches_are_the_ones_named(name: str) -> None:
    with anyio.fail_after(10):
        await run(ROOT / "docs/how-to/test-with-the-emulator.md")[name]()


@pytest.mark.anyio
async def test_the_made_up_provider_keeps_the_contract(tmp_path: Path) -> None:
    page = ROOT / "docs/how-to/write-a-provider.md"
    provider = "".join(block.code for block in blocks(page)[:2])
    (tmp_path / "acorn.py").write_text(provider.replace("class Acorn", "class Plain").replace("(Acorn)", "(Plain)"))
    with (tmp_path / "acorn.py").open("a") as file:
        file.write("\nAcorn = ExplainingAcorn\n")
    (tmp_path / "test_acorn.py").write_text(files(page)["test_acorn.py"])
    (tmp_path / "test_own.py").write_text(files(page)["test_own.py"])
    assert b"32 passed" in await readers_tests(tmp_path)


@pytest.mark.anyio
async def test_the_redis_of_the_page_lets_a_ticket_be_spent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis_server(tmp_path) as redis:
        monkeypatch.setenv("REDIS_URL", redis.url)
        page = run(ROOT / "docs/how-to/several-workers.md")
        async with page["proxy"] as proxy:
            embed = await proxy.ticket(Preview("mch_a1b2c3d4", 3000), subject="ada")
            desk, preview = proxy._tickets, Preview("mch_a1b2c3d4", 3000)
            where = {"origin": Origin.parse(embed.origin), "preview": preview, "embedder": "https://app.acme.com"}
            assert (await desk.exchange(embed.ticket, **where)).subject == "ada"
            with pytest.raises(errors.Forbidden, match="spent before"):
                await desk.exchange(embed.ticket, **where)

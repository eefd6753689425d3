"""The layers and the size of the code, read from its source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

import preview_proxy

ROOT = Path(preview_proxy.__file__).parent
SOURCES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(), path) for name, path in SOURCES.items()}
MODULES = sorted(TREES)
CORE = [name for name in MODULES if name.startswith("preview_proxy.core")]

# Each module or folder may import from its own layer and those below it.
LAYERS = [
    ["core"],
    ["errors", "event_loop"],
    ["event_loop_trio"],
    [
        "breaker",
        "checks",
        "hosts",
        "jwks",
        "jwt_sessions",
        "live",
        "logs",
        "occupancy",
        "placement",
        "providers",
        "redis_revocations",
        "redis_state",
        "responses",
        "revocation",
        "sealed",
        "sealing",
        "sessions",
        "tickets",
        "workers",
    ],
    ["transports"],
    ["gate", "lease", "readiness", "visit", "endpoints"],
    ["proxy"],
    [""],
    ["testing"],
    ["cli", "__main__"],
]
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}


def part(module: str) -> str:
    """The module's or folder's name right below the package."""
    return module.removeprefix("preview_proxy").removeprefix(".").partition(".")[0]


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module imported, wherever the import stands; of `from package import module`, the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in TREES else str(node.module) for name in whole)


def inner(module: str) -> set[str]:
    return {name for name in imports(TREES[module]) if name.split(".")[0] == "preview_proxy"}


@pytest.mark.parametrize("module", CORE)
def test_core_imports_the_standard_library_and_itself_only(module: str) -> None:
    for name in imports(TREES[module]):
        assert name.startswith("preview_proxy.core") or name.split(".")[0] in sys.stdlib_module_names, name


@pytest.mark.parametrize("module", CORE)
def test_core_waits_for_nothing_and_reads_no_clock_chance_or_environment(module: str) -> None:
    impure = {
        "asyncio",
        "io",
        "logging",
        "os",
        "pathlib",
        "random",
        "secrets",
        "socket",
        "subprocess",
        "sys",
        "threading",
    }
    assert not {name.split(".")[0] for name in imports(TREES[module])} & {*impure, "time", "datetime", "uuid"}
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(TREES[module]) if isinstance(node, waits)]
    assert not [name for name in called(TREES[module]) if name in ("open", "print", "input", "eval", "exec")]


@pytest.mark.parametrize("module", MODULES)
def test_each_module_imports_only_from_its_layer_and_below(module: str) -> None:
    for name in inner(module):
        assert LAYER[part(name)] <= LAYER[part(module)], name
        assert part(name) != "" or part(module) in ("testing", "cli", "__main__"), (
            "the package's front door, from inside"
        )


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: inner(module) - {module} for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


def test_providers_and_transports_do_not_know_each_other() -> None:
    for one, other in (("providers", "transports"), ("transports", "providers")):
        assert not [name for module in MODULES if part(module) == one for name in inner(module) if part(name) == other]


def test_nothing_outside_testing_imports_it() -> None:
    others = [module for module in MODULES if part(module) not in ("testing", "cli", "__main__")]
    assert not [module for module in others for name in inner(module) if part(name) == "testing"]


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_over_400_lines(module: str) -> None:
    assert len(SOURCES[module].read_text().splitlines()) <= 400


def lengths() -> dict[str, int]:
    return {
        f"{module}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_functions_are_short() -> None:
    assert {name: length for name, length in lengths().items() if length > 60} == {}
    assert median(lengths().values()) <= 8


def called(tree: ast.Module) -> list[str]:
    """What is called, as it is written."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


# In `transports` a request is httpx's, built by us, and its URL is the endpoint's.
@pytest.mark.parametrize("module", [module for module in MODULES if part(module) != "transports"])
def test_p03_what_a_host_header_can_poison_is_not_used(module: str) -> None:
    attributes = {ast.unparse(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
    assert not attributes & {"request.url", "connection.url", "request.base_url", "connection.base_url"}
    assert "scope['server']" not in ast.unparse(TREES[module])


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("banned", ["urljoin", "AsyncClient", "Client", "print", "eval", "exec", "basicConfig"])
def test_what_must_not_be_called_is_not(module: str, banned: str) -> None:
    assert not [name for name in called(TREES[module]) if name.split(".")[-1] == banned]


@pytest.mark.parametrize("name", preview_proxy.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    text = getattr(preview_proxy, name).__doc__
    assert text
    assert not text.startswith(f"{name}("), "the docstring that @dataclass writes"

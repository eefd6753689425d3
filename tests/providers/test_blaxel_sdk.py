"""The real SDK of Blaxel against the emulator: alone, and under our provider."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from preview_proxy.testing import BlaxelEmulator

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def blaxel() -> AsyncIterator[BlaxelEmulator]:
    async with BlaxelEmulator() as emulator:
        emulator.add_sandbox("my-sandbox", {3000: 9, 4000: 9})
        yield emulator


async def program(blaxel: BlaxelEmulator, home: Path) -> dict[str, Any]:
    """What the SDK saw; `home` has no configuration of Blaxel's in it."""
    variables = {
        "BL_API_KEY": blaxel.api_key,
        "BL_WORKSPACE": blaxel.workspace,
        "DO_NOT_TRACK": "1",
        "HOME": str(home),
    }
    command = [sys.executable, "-m", "tests.providers.blaxel_sdk", f"{blaxel.api_url}/v0", blaxel.edge_domain]
    with anyio.fail_after(60):
        ran = await anyio.run_process(command, cwd=ROOT, env={**os.environ, **variables}, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    seen: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return seen


async def test_the_sdk_unchanged_is_content_with_the_emulator_and_serves_our_provider(
    blaxel: BlaxelEmulator, tmp_path: Path
) -> None:
    blaxel.add_preview("my-sandbox", "preview-proxy-5000", 5000, public=True)
    seen = await program(blaxel, tmp_path)
    [preview] = [preview for preview in blaxel.previews if preview.port == 3000]
    [token] = preview.tokens.values()
    assert preview.public is False
    assert seen["provider"] == {
        "id": token.name,
        "host": f"{preview.id}.{blaxel.edge_domain}",
        "headers": ["x-blaxel-preview-token"],
        "expires_at": pytest.approx(token.ends, abs=1),
        "failures": {
            "gone:3000": ["machine_not_found", "the SDK raised SandboxAPIError", True],
            "my-sandbox:5000": [
                "provider_failed",
                "the preview cannot be used: it is public, so that anybody sees it without you: delete it, or set "
                "another preview_name",
                True,
            ],
        },
    }
    assert seen["sdk"] == {
        "names": ["preview-proxy-5000", "preview-proxy-3000", "preview-4000"],
        "reused": True,
        "conflict": 409,
        "left": 0,
    }

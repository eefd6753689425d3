"""A program that uses the real SDK of Blaxel, unchanged, and prints what it saw as JSON: `... <api> <edge domain>`.

In a process of its own: the SDK reads its credentials when it is imported, and sets hooks for the whole process.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
from blaxel.core import SandboxInstance
from blaxel.core.client.client import client
from blaxel.core.client.errors import UnexpectedStatus

from preview_proxy import Blaxel, Preview, PreviewProxyError


async def through_our_provider(edge_domain: str) -> dict[str, Any]:
    provider = Blaxel(sdk=SandboxInstance, domains=[edge_domain], allow_insecure_loopback=True)
    target = await provider.resolve(Preview("my-sandbox", 3000))
    assert target.http is not None
    failures = {}
    for machine, port in (("gone", 3000), ("my-sandbox", 5000)):
        try:
            await provider.resolve(Preview(machine, port))
        except PreviewProxyError as error:
            failures[f"{machine}:{port}"] = [error.code, error.detail, error.__context__ is None]
    second = await provider.resolve(Preview("my-sandbox", 3000))
    await provider.revoke(Preview("my-sandbox", 3000), second)
    await provider.aclose()
    return {
        "id": target.id,
        "host": target.http.origin.host,
        "headers": [name.decode() for name, _ in target.http.credentials],
        "expires_at": target.expires_at,
        "failures": failures,
    }


async def by_itself() -> dict[str, Any]:
    sandbox = await SandboxInstance.get("my-sandbox")
    short = await sandbox.previews.create_if_not_exists({"port": 4000})
    token = await short.tokens.create(datetime.now(UTC) + timedelta(minutes=10))
    again = await short.tokens.create_if_expired(datetime.now(UTC) + timedelta(minutes=30), timedelta(minutes=5))
    names = [preview.name for preview in await sandbox.previews.list()]
    try:
        await sandbox.previews.create({"port": 4000})
        conflict = 0
    except UnexpectedStatus as error:
        conflict = error.status_code
    await short.tokens.delete(token.name)
    left = len(await short.tokens.list())
    await sandbox.previews.delete(short.name)
    return {"names": names, "reused": again.value == token.value, "conflict": conflict, "left": left}


async def main(api: str, edge_domain: str) -> None:
    client.with_base_url(api)
    seen = {"provider": await through_our_provider(edge_domain), "sdk": await by_itself()}
    await client.get_async_httpx_client().aclose()
    print(json.dumps(seen))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])

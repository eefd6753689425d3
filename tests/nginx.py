"""nginx in front of uvicorn, configured as the documentation says."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from starlette.types import ASGIApp

from tests.programs import need
from tests.servers import listening, serving

PAGE = Path(__file__).parents[1] / "docs/how-to/behind-a-load-balancer.md"

AROUND = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    {documented}
}}
"""


def configuration(folder: str, port: int, behind: int) -> str:
    """The documentation's, with the test's ports and names for its own, and without TLS."""
    [documented] = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    documented = documented.replace("listen 443 ssl", f"listen 127.0.0.1:{port} default_server")
    documented = documented.replace("127.0.0.1:8000", f"127.0.0.1:{behind}")
    documented = re.sub(r"(?m)^ +ssl_.*\n", "", documented)
    return AROUND.format(folder=folder, documented=documented)


@asynccontextmanager
async def nginx(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `app` with uvicorn behind nginx, which takes over the listening socket, until the block ends."""
    program = need("nginx")
    with tempfile.TemporaryDirectory() as folder:
        behind = listening()
        file = anyio.Path(folder, "nginx.conf")
        await file.write_text(configuration(folder, listener.getsockname()[1], behind.getsockname()[1]))
        async with serving(app, behind, http="h11"):
            with listener:
                process = await asyncio.create_subprocess_exec(
                    program, "-e", "stderr", "-p", folder, "-c", str(file),
                    pass_fds=[listener.fileno()],
                    env={"NGINX": f"{listener.fileno()};", "PATH": os.defpath},
                    stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
            try:
                yield
            finally:
                process.terminate()
                _, said = await process.communicate()
        assert process.returncode == 0, said.decode()

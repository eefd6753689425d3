"""What is measured: our proxy, others of its kind, the server's own ceiling, and no proxy at all."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from tests.bench import origin, servers
from tests.bench.load import Site, Subject
from tests.bench.processes import LOAD_CORE, PROXY_CORE, Unmeasured, free_port, program, running

PROXIES = ("ours", "fastapi-proxy-lib", "asgiproxy", "nginx", "caddy")
SUBJECTS = ("direct", "ceiling", *PROXIES)
PACKAGES = {"nginx": "nginx-light", "caddy": "caddy", "wrk": "wrk"}


@dataclass(frozen=True)
class Origins:
    """The ports of the two origins, and a folder for all that lasts as long as the bench."""

    folder: Path
    files: int
    live: int


@contextlib.contextmanager
def origins() -> Iterator[Origins]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preview-proxy-bench-")))
        made = Origins(folder, free_port(), free_port())
        (folder / "origin").mkdir()
        nginx = _nginx(folder / "origin", origin.nginx_conf(folder / "origin", made.files))
        stack.enter_context(running(nginx, port=made.files, core=LOAD_CORE, log=folder / "files.log"))
        command = [sys.executable, "-m", "tests.bench.origin", str(made.live)]
        stack.enter_context(running(command, port=made.live, core=LOAD_CORE, log=folder / "live.log"))
        yield made


@contextlib.contextmanager
def serve(name: str, upstream: Origins, *, profile: Path | None = None) -> Iterator[Subject]:
    """Start a subject by its name, and stop it when the block ends."""
    if name == "direct":
        yield Subject(name, None, Site(upstream.files), Site(upstream.live))
        return
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=upstream.folder))
    env = {"GOMAXPROCS": "1", "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = _command(name, port, upstream, folder, profile)
    with running(command, port=port, core=PROXY_CORE, log=folder / "log", env=env) as pid:
        if name == "ours":
            yield Subject(name, pid, sign_in(port, servers.FILES_PORT), sign_in(port, servers.LIVE_PORT))
        else:
            yield Subject(name, pid, Site(port), Site(port, "/live"))


def _command(name: str, port: int, upstream: Origins, folder: Path, profile: Path | None) -> list[str]:
    if name == "nginx":
        return _nginx(folder, _nginx_proxy_conf(folder, port, upstream))
    if name == "caddy":
        (folder / "Caddyfile").write_text(_caddyfile(port, upstream))
        return [program("caddy") or "caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    arguments = [name, port, upstream.files, upstream.live, *([profile] if profile else [])]
    return [sys.executable, "-m", "tests.bench.servers", *map(str, arguments)]


def _nginx(folder: Path, conf: str) -> list[str]:
    (folder / "nginx.conf").write_text(conf)
    return [program("nginx") or "nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"]


def _nginx_proxy_conf(folder: Path, port: int, upstream: Origins) -> str:
    """Streaming both ways, with the 16 KiB buffers of its `stream` module: with 4 KiB, as for HTTP, it is slow."""
    keep = "keepalive 1024; keepalive_requests 1000000000;"
    return f"""{origin.nginx_preamble(folder)}
        upstream files {{ server 127.0.0.1:{upstream.files}; {keep} }}
        upstream live {{ server 127.0.0.1:{upstream.live}; {keep} }}
        map $http_upgrade $upgrade_or_not {{ default upgrade; '' ''; }}
        proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off; client_max_body_size 0;
        proxy_buffer_size 16k; proxy_buffers 8 16k;
        proxy_set_header Connection $upgrade_or_not; proxy_set_header Upgrade $http_upgrade;
        server {{
            listen 127.0.0.1:{port} backlog=4096;
            location / {{ proxy_pass http://files; }}
            location /live/ {{ proxy_pass http://live; }}
        }}
    }}"""


def _caddyfile(port: int, upstream: Origins) -> str:
    return f"""{{
        admin off
        auto_https off
        log {{
            level ERROR
        }}
    }}
    :{port} {{
        bind 127.0.0.1
        handle /live/* {{
            reverse_proxy 127.0.0.1:{upstream.live}
        }}
        handle {{
            reverse_proxy 127.0.0.1:{upstream.files}
        }}
    }}
    """


def sign_in(port: int, preview_port: int) -> Site:
    """The way through our proxy as a browser finds it: a ticket of the app's, exchanged for the gate cookie."""
    embed = json.loads(_post(port, f"/previews/{preview_port}", b"", {}).read())
    host = embed["origin"].removeprefix("http://")
    fields = {"Host": host, "Origin": servers.EMBEDDER, "Content-Type": "application/json"}
    ticket = json.dumps({"ticket": embed["ticket"]}).encode()
    exchanged = _post(port, "/.well-known/preview-proxy/session", ticket, fields)
    cookie = (exchanged.getheader("set-cookie") or "").partition(";")[0]
    # Browsers send `Origin` with WebSockets and uploads; with the GET of a page they do not.
    origin_field = {"Origin": embed["origin"]} if preview_port == servers.LIVE_PORT else {}
    return Site(port, headers={"Host": host, "Cookie": cookie, **origin_field})


def _post(port: int, path: str, body: bytes, fields: dict[str, str]) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("POST", path, body, fields)
    response = connection.getresponse()
    if response.status not in (200, 204):
        raise Unmeasured(f"POST {path}: {response.status} {response.read()[:200]!r}")
    return response

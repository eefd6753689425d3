"""Child processes, each on one core, that never outlive the bench; and what the kernel says of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[0], CORES[-1]
"""The subject has a core of its own; the origin and the load share the other."""

DESCRIPTORS = 8192
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Unmeasured(Exception):
    """Something could not be measured; the text says what, and why."""


def program(name: str) -> str | None:
    """The path of a program, also where a plain user's `PATH` has no ``sbin``."""
    return shutil.which(
        name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    )


def raise_descriptor_limit() -> None:
    """As many open files as 2,000 relayed sockets need, for this process and all it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < DESCRIPTORS:
        raise Unmeasured(f"at most {most} open files are allowed here; {DESCRIPTORS} are needed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, most))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def bound_to(core: int) -> Callable[[], None]:
    """What a child does first: keep to a core, and die with this process even if that is killed outright."""

    def become_child() -> None:
        os.sched_setaffinity(0, {core})
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return become_child


@contextlib.contextmanager
def running(
    command: Sequence[str], *, port: int, core: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server until the block ends, from when it accepts connections at `port`. Gives its process id."""

    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # Ctrl-C is ours alone; we stop our children in order
            preexec_fn=bound_to(core),
        )
    try:
        _wait_until_listening(process, port, log)
        yield process.pid
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise Unmeasured(f"{Path(str(process.args[0])).name} did not start: {last}")  # type: ignore[index]


def resident(pid: int) -> int:
    """Resident memory in bytes, exactly: the cheaper counters lag behind by up to 64 pages a core."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise Unmeasured("the kernel does not say how much memory is resident")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def settle(pid: int | None) -> None:
    """Wait until a process has nothing to do, 3 seconds at most: what one run left over is not the next one's."""
    deadline = time.monotonic() + 3
    before = -1.0
    while pid and (now := cpu_seconds(pid)) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.03)

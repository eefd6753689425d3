"""`make fuzz`: libFuzzer, by way of atheris, looks for bytes that break what a target asserts.

    python -m tests.fuzz [SECONDS [TARGET ...]]    for each target: 1 second unless told

Each target runs in a process of its own. What it has found worth keeping stays in `.fuzz/`, where the next run starts.
An input that breaks a target is printed, and belongs into the parser's own tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import atheris

CORPUS = Path(".fuzz")
MAX_LENGTH = 1024  # bytes: an input that breaks a parser is seldom longer
SLOW = 5  # seconds for one input, a hundred times what it may take


def run_one(name: str, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    with atheris.instrument_imports(include=["preview_proxy"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LENGTH}",
        f"-timeout={SLOW}",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={CORPUS}/{name}-", str(folder)], TARGETS[name])
    atheris.Fuzz()


def main(seconds: int, names: list[str]) -> int:
    from tests.fuzz.targets import TARGETS

    broken = []
    for name in names or TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = re.search(r"number_of_executed_units: *([0-9]+)", done.stderr)
        print(f"{name:12} {'broken' if done.returncode else 'held':7} {runs[1] if runs else '?':>8} inputs", flush=True)
        if done.returncode:
            print(done.stdout + done.stderr)
            broken.append(name)
    return int(bool(broken))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], int(sys.argv[3]))
    raise SystemExit(main(int(sys.argv[1]) if sys.argv[1:] else 1, sys.argv[2:]))

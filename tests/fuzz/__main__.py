"""`make fuzz`: libFuzzer, by way of atheris, looks for bytes that break what a target asserts.

    python -m tests.fuzz [SECONDS [TARGET ...]]    for each target: 1 second unless told

Each target runs in a process of its own. What it has found worth keeping stays in `.fuzz/`, where the next run starts.
An input that breaks a target is printed, and belongs into the parser's own tests.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import atheris

# It names every module on its way.
with redirect_stderr(StringIO()), atheris.instrument_imports(include=["preview_proxy"]):
    from tests.fuzz.targets import SEEDS, TARGETS

CORPUS = Path(".fuzz")
MAX_LENGTH = 1024  # bytes: an input that breaks a parser is seldom longer
SLOW = 5  # seconds for one input, a hundred times what it may take


def fuzz(name: str, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", f"-timeout={SLOW}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={CORPUS}/{name}-", str(folder)], TARGETS[name])
    atheris.Fuzz()


def holds(name: str, seconds: int) -> bool:
    """Fuzz in a fork, and say how it went."""
    log = CORPUS / f"{name}.log"
    child = os.fork()
    if not child:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        fuzz(name, seconds)
    _, ended = os.waitpid(child, 0)
    said = log.read_text(errors="replace")
    runs = re.search(r"number_of_executed_units: *([0-9]+)", said)
    print(f"{name:12} {'broken' if ended else 'held':7} {runs[1] if runs else '?':>9} inputs", flush=True)
    if ended:
        print(said)
    return ended == 0


def main(seconds: int, names: list[str]) -> int:
    CORPUS.mkdir(exist_ok=True)
    broken = [name for name in names or TARGETS if not holds(name, seconds)]
    return int(bool(broken))


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if sys.argv[1:] else 1, sys.argv[2:]))

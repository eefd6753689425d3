"""`python -m tests.bench`: measure, print, and write `bench.json`. Missed targets are no failure of the bench."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pstats
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.bench.load import Subject
from tests.bench.processes import CORES, LOAD_CORE, PROXY_CORE, Unmeasured, program, raise_descriptor_limit, settle
from tests.bench.report import measures_table, targets_table
from tests.bench.scenarios import SCENARIOS, Scenario
from tests.bench.subjects import PACKAGES, PROXIES, SUBJECTS, Origins, origins, serve
from tests.bench.targets import TARGETS, medians

OUTPUT = Path("bench.json")
FULL_ROUNDS, FULL_SECONDS, FULL_LIMIT = 5, 1.0, 1200
QUICK_ROUNDS, QUICK_SECONDS, QUICK_LIMIT = 3, 0.3, 180


class Bench:
    """One run over chosen scenarios and subjects. `runs` and `failures` are what came of it."""

    def __init__(self, upstream: Origins, chosen: dict[str, tuple[str, ...]], seconds: float) -> None:
        self._upstream = upstream
        self._chosen = chosen
        self._seconds = seconds
        self._up: dict[str, Subject] = {}
        self.runs: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.failures: dict[str, str] = {}

    def run(self, rounds: int, *, fresh_rounds: int) -> None:
        """Subjects take turns within a scenario, and scenarios within a round, so that a drift meets all alike."""
        with self._serving():
            for number in range(rounds):
                for name, subjects in self._chosen.items():
                    if SCENARIOS[name].fresh and number >= fresh_rounds:
                        continue
                    progress(f"round {number + 1} of {rounds}: {name}")
                    for subject in subjects:
                        self._measure(name, SCENARIOS[name], subject)
        progress("")

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        """Every subject that a scenario shares with others, warmed up."""
        shared = [subjects for name, subjects in self._chosen.items() if not SCENARIOS[name].fresh]
        wanted = {subject for subjects in shared for subject in subjects}
        with contextlib.ExitStack() as stack:
            for name in SUBJECTS:
                if name in wanted:
                    progress(f"starting {name}")
                    with self._noting(name):
                        self._up[name] = stack.enter_context(serve(name, self._upstream))
                        SCENARIOS["get-32"].run(self._up[name], 0.3)
            yield

    def _measure(self, name: str, scenario: Scenario, subject: str) -> None:
        if subject in self.failures:
            return
        with self._noting(f"{name} {subject}"), contextlib.ExitStack() as stack:
            if scenario.fresh:
                served = stack.enter_context(serve(subject, self._upstream))
            else:
                served = self._up[subject]
                stack.callback(settle, served.pid)
            for measure, value in scenario.run(served, self._seconds).items():
                self.runs[measure, subject].append(value)

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Let one failure not cost all the rest."""
        try:
            yield
        except Exception as failure:
            self.failures[what] = f"{type(failure).__name__}: {failure}"


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def choose(only: list[str], *, quick: bool) -> dict[str, tuple[str, ...]]:
    """Scenario → subjects. Names of scenarios restrict the ones, names of subjects the others.

    With a scenario named, it can be had for any proxy, also for one that it is not usually measured for.
    """
    scenarios = [name for name in SCENARIOS if name in only]
    subjects = [name for name in SUBJECTS if name in only]
    chosen = {}
    for name in scenarios or SCENARIOS:
        usual = SCENARIOS[name].subjects if quick else (*SCENARIOS[name].subjects, *SCENARIOS[name].others)
        possible = {*usual, *PROXIES} if scenarios else {*usual}
        wanted = tuple(subject for subject in SUBJECTS if subject in possible.intersection(subjects or usual))
        if wanted:
            chosen[name] = wanted
    return chosen


def check_programs(chosen: dict[str, tuple[str, ...]]) -> None:
    wanted = {"nginx", "wrk"} | {subject for subjects in chosen.values() for subject in subjects if subject == "caddy"}
    missing = sorted(name for name in wanted if program(name) is None)
    if missing:
        packages = " ".join(PACKAGES[name] for name in missing)
        raise Unmeasured(f"missing: {', '.join(missing)}. On Debian or Ubuntu: apt-get install {packages}")


def profile(upstream: Origins, scenarios: list[str], seconds: float) -> None:
    """Where our proxy spends its time in a scenario, by cProfile: the top 40 by own time."""
    for name in scenarios or ["get-32"]:
        file = upstream.folder / f"{name}.prof"
        with serve("ours", upstream, profile=file) as subject:
            SCENARIOS[name].run(subject, seconds)
        print(f"\n{name}, under cProfile, which slows calls of Python functions more than those of C:")
        pstats.Stats(str(file)).strip_dirs().sort_stats("tottime").print_stats(40)


def show(bench: Bench, *, complete: bool) -> None:
    measured = medians(bench.runs)
    rows = [target.row(measured) for target in TARGETS]
    shown = rows if complete else [row for row in rows if row["ok"] is not None]
    print(measures_table(measured, SUBJECTS), end="\n\n")
    if shown:
        print(targets_table(shown))
    for what, why in bench.failures.items():
        print(f"not measured: {what}: {why}")
    if complete:
        OUTPUT.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        print(f"\n{OUTPUT} has the targets with the medians behind them.")
    if any(row["ok"] is False for row in rows):
        print("To see where the time goes: python -m tests.bench --profile [--only SCENARIO]")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, for the targets alone")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=[*SCENARIOS, *SUBJECTS],
        help=f"scenarios ({', '.join(SCENARIOS)}) and subjects ({', '.join(SUBJECTS)}); writes no {OUTPUT}",
    )
    parser.add_argument("--profile", action="store_true", help="profile our proxy instead (GET at c=32, or --only)")
    return parser.parse_args()


def stop_by_signal(number: int, frame: object) -> None:
    raise SystemExit("took too long" if number == signal.SIGALRM else 128 + number)


def main() -> int:
    chosen_by = arguments()
    quick: bool = chosen_by.quick
    rounds, seconds, limit = (
        (QUICK_ROUNDS, QUICK_SECONDS, QUICK_LIMIT) if quick else (FULL_ROUNDS, FULL_SECONDS, FULL_LIMIT)
    )
    signal.signal(signal.SIGTERM, stop_by_signal)
    signal.signal(signal.SIGALRM, stop_by_signal)
    signal.alarm(limit)
    others = os.getloadavg()[0]
    chosen = choose(chosen_by.only, quick=quick)
    try:
        if len(CORES) < 2:
            raise Unmeasured("two cores are needed, one for the proxy and one for the load")
        check_programs(chosen)
        raise_descriptor_limit()
        os.sched_setaffinity(0, {LOAD_CORE})
        with origins() as upstream:
            if chosen_by.profile:
                profile(upstream, [name for name in chosen_by.only if name in SCENARIOS], 4)
                return 0
            begun = time.monotonic()
            bench = Bench(upstream, chosen, seconds)
            bench.run(rounds, fresh_rounds=1 if quick else rounds)
    except Unmeasured as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"Proxy on core {PROXY_CORE}, origin and load on core {LOAD_CORE}; ", end="")
    print(f"medians of {rounds} rounds; {time.monotonic() - begun:.0f} s.\n")
    if others > 1:
        print(f"Something else was running: the load average was {others:.1f} before this began. Expect noise.\n")
    show(bench, complete=not chosen_by.only)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())

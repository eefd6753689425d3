"""``preview-proxy doctor``, also ``python -m preview_proxy doctor``: whether what is installed may serve previews."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata

USAGE = "usage: preview-proxy doctor\n\n  doctor   name every installed package that is too old to be safe here\n"

# What we do not depend on, where it is there. Each floor is the first release without a flaw that matters behind us.
BESIDES = (
    "granian>=2.8",  # CVE-2026-42544: a subprotocol aborts a worker
    "h2>=4.3",  # CVE-2025-57804: line breaks in fields
    "hypercorn>=0.18",
    "uvicorn>=0.54",
    "wsproto>=1.3",
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status: 1 where something is too old, 2 for no command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments != ["doctor"]:
        sys.stderr.write(USAGE)
        return 2
    found = list(too_old([*(metadata.requires("preview-proxy") or ()), *BESIDES], metadata.version))
    for line in found:
        sys.stdout.write(line + "\n")
    if not found:
        sys.stdout.write("Every package and server that is installed is new enough.\n")
    return 1 if found else 0


def too_old(requirements: Iterable[str], version_of: Callable[[str], str]) -> Iterator[str]:
    """A line for each installed package outside the bounds of `requirements`, which are lines of a wheel's metadata."""
    for requirement in sorted(set(requirements)):
        name, bounds = _parsed(requirement)
        try:
            version = version_of(name)
        except metadata.PackageNotFoundError:
            continue
        for sign, bound in bounds:
            if (_release(version) >= _release(bound)) is not (sign == ">="):
                yield f"{name} {version} is installed, and must be {sign}{bound}"


def _parsed(requirement: str) -> tuple[str, list[tuple[str, str]]]:
    """Name and bounds. Other signs than these two are not ours (a test says so)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    bounds = re.findall(r"(>=|<)\s*([0-9][0-9.]*)", requirement.partition(";")[0])
    return name[0] if name else "", bounds


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version (PEP 440), of a pre-release those that it leads to; zeros at its end do not matter."""
    release = re.match(r"[0-9.]*", version)
    numbers = [int(part) for part in release[0].split(".") if part] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


if __name__ == "__main__":
    sys.exit(main())

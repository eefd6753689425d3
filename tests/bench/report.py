"""What is printed: the medians of everything, and the targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.bench.targets import Medians


def number(value: float | None) -> str:
    """Three significant digits or the whole number, whichever is more."""
    if value is None:
        return "-"
    for digits, below in ((3, 1), (2, 10), (1, 100)):
        if abs(value) < below:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines)


def measures_table(measured: Medians, subjects: Iterable[str]) -> str:
    """A row for each measure, a column for each subject that has any."""
    columns = [subject for subject in subjects if any(name == subject for _, name in measured)]
    names = dict.fromkeys(measure for measure, _ in measured)
    body = [[name, *(number(measured.get((name, subject))) for subject in columns)] for name in names]
    return table([["median of", *columns], *body])


def targets_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """✓ for a target that is met, ✗ for one that is missed, ? for one that was not measured."""
    marks = {True: "✓", False: "✗", None: "?"}
    body = [
        [
            f"{marks[row['ok']]} {row['target']}",
            f"{number(row.get('ratio', row.get('value')))} {row.get('unit', 'x')}",
            f"{row['bound']} {row['goal']:g}",
        ]
        for row in rows
    ]
    return table([["target", "measured", "goal"], *body])

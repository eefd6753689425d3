"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable

GENERATED = "<!-- Written by `python -m docs.generate`. Edit the code or docs/generate.py instead. -->"


def names(exact: Iterable[str | bytes], prefixes: Iterable[bytes] = ()) -> str:
    found = {name if isinstance(name, str) else name.decode() for name in exact}
    return ", ".join(f"`{name}`" for name in sorted(found | {prefix.decode() + "*" for prefix in prefixes}))


def table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def document(title: str, *parts: str) -> str:
    return "\n\n".join((GENERATED, f"# {title}", *parts)) + "\n"

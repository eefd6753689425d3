"""What is on a page of the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Block:
    page: Path
    line: int
    code: str

    @property
    def file(self) -> str | None:
        """The file that the reader is told to save the block as, from its first line."""
        match = re.match(r"# (\w+\.py)\n", self.code)
        return match[1] if match else None

    def compile(self) -> Any:
        return compile("\n" * self.line + self.code, str(self.page), "exec", dont_inherit=True)


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text[: match.start(1)].count("\n"), match[1]) for match in found]


def files(page: Path) -> dict[str, str]:
    """The files on a page, the last version of each."""
    return {block.file: block.code for block in blocks(page) if block.file}


def outside_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)

"""The project's documents as text: their fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hybrid_ir.composition import conf_dir

REPOSITORY = conf_dir().parent

TRANSCRIPTS = "docs/results.md"
"""Long runs with what they printed: their commands stand in blocks without a language."""

DOCUMENTS = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("README.md", "bench/README.md", "docs/*.md", "examples/*/README.md")
    for path in sorted(REPOSITORY.glob(pattern))
}
"""Texts by path."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """Its lines."""
        return "\n".join(self.lines) + "\n"


def blocks(document: str) -> Iterator[Block]:
    """Fenced blocks of a document, those in lists too."""
    inside: list[str] | None = None
    language, indent = "", 0
    for line in DOCUMENTS[document].splitlines():
        if line.lstrip(" ").startswith("```"):
            if inside is None:
                indent = len(line) - len(line.lstrip(" "))
                language, inside = line.strip().removeprefix("```").strip(), []
            else:
                yield Block(document, language, tuple(inside))
                inside = None
        elif inside is not None:
            assert not line[:indent].strip(), f"{document}: a line of a block is indented less than its fence: {line}"
            inside.append(line[indent:])
    assert inside is None, f"{document}: a fence is not closed"


def commands(lines: Sequence[str]) -> list[str]:
    """Commands of a block: a line each, or several that end in a backslash; without comments."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [text for line in joined.splitlines() if (text := shlex.join(shlex.split(line, comments=True)))]

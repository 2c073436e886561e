"""What the READMEs show: their blocks, their commands, their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("bench", "fedsim", "kernels", "plots", "scenarios")
DOCUMENTS = [ROOT / "README.md", *sorted(path for room in ROOMS for path in (ROOT / room).rglob("README.md"))]
OWN = {"fedsim", ".venv/bin/fedsim"}


def name_of(path: Path) -> str:
    """From the root."""
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: Path
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """What it is called where its first line says so."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found and found[1]

    def __str__(self) -> str:
        return f"{name_of(self.document)}: {self.text.splitlines()[0][:60]}"


def blocks(language: str, *documents: Path) -> list[Block]:
    """All blocks of a language, of all documents or of these, in order."""
    return [
        Block(path, language, text)
        for path in documents or DOCUMENTS
        for text in re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    ]


def python_file(name: str) -> str:
    """The text of the one block that begins with this name of a file."""
    [block] = [block for block in blocks("python") if block.file == name]
    return block.text


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block of shell."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


def prose(path: Path) -> str:
    """What is not in blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def inline(path: Path) -> list[str]:
    """What stands between backquotes in the prose."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(path))]


def anchors(path: Path) -> set[str]:
    """What a link into a document may name: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    """The targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(path))

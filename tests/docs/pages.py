"""README and pages of docs/, taken apart: links, anchors, blocks between fences, and the commands that they print."""

import re
import shlex
from dataclasses import dataclass

from tests.conftest import ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`((?:[A-Z_]+=\S+ )*(?:python|make|torchrun|pip|source|tensorboard) [^`]+)`")


@dataclass(frozen=True)
class Block:
    """What stands between two fences of a page."""

    page: str
    tag: str  # the word behind the first fence
    text: str  # without the indentation of the fence
    before: str  # the line before it that is not empty

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:70]}"


@dataclass(frozen=True)
class Command:
    """One command that a page prints."""

    page: str
    words: tuple[str, ...]  # without comment and without the file that output goes to

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)[:90]}"


def prose(text: str) -> str:
    """A page without what stands between fences."""
    return _FENCE.sub("", text)


def blocks() -> list[Block]:
    """All blocks of all pages."""
    found = []
    for page, text in PAGES.items():
        for match in _FENCE.finditer(text):
            lines = (line.removeprefix(match[1]) for line in match[3].splitlines())
            before = text[: match.start()].rstrip().rpartition("\n")[2]
            found.append(Block(page, match[2], "\n".join(lines), before))
    return found


def commands() -> list[Command]:
    """The commands in blocks with the tag bash, and those in running text that are more than the name of a module."""
    found = {}
    for block in blocks():
        if block.tag == "bash" and not block.text.startswith("#!"):
            for line in block.text.replace("\\\n", " ").splitlines():
                found |= _command(block.page, line)
    for page, text in PAGES.items():
        for code in _INLINE.findall(prose(text)):
            found |= _command(page, code.replace("\n", " "))
    return list(found)


def scripts() -> list[Block]:
    """Whole shell scripts: blocks that begin with #!."""
    return [block for block in blocks() if block.tag == "bash" and block.text.startswith("#!")]


def _command(page: str, line: str) -> dict[Command, None]:
    words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    return {Command(page, tuple(words)): None} if words else {}


def links() -> list[tuple[str, str]]:
    """(page, target) of each link and picture; not those to the network."""
    found = [(page, target) for page, text in PAGES.items() for target in re.findall(r"\]\(([^)\s]+)\)", prose(text))]
    return [(page, target) for page, target in found if not target.startswith("http")]


def anchors(text: str) -> set[str]:
    """The names that a link may point to: GitHub's of the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def modules() -> list[str]:
    """Every module that a page runs with `python -m`."""
    return sorted(set(re.findall(r"\bpython -m ([a-z_.]+[a-z_])", "\n".join(PAGES.values()))))

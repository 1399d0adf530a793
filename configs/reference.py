"""The table of all keys, from the comments of defaults.py and the ranges of check.py.

python -m configs.reference > docs/config.md
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs import defaults
from configs.check import accepted_values
from configs.command import CommandParser, run_command, say

_KEY = re.compile(r"\b(?:MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST)\.[A-Z0-9_.]*[A-Z0-9]\b")
_INTRODUCTION = """\
# Every key of a config

For whoever looks up what a key means: name, default, accepted values, meaning. `python -m configs.reference` prints it
from [`configs/defaults.py`](../configs/defaults.py) and [`configs/check.py`](../configs/check.py); edit those.

A run is the defaults, then a YAML file (`--config_file`), then `KEY VALUE` pairs of the command line. Where the column
"accepted" is empty, the meaning says what is. Keys that contradict each other are refused too, in one line that names
them; an unknown key is refused with the nearest valid one, a key of the authors' release with its name here."""


def main(argv: Sequence[str]) -> int:
    """Print the page; returns the exit code."""

    def work() -> None:
        CommandParser("Print the page of all config keys (docs/config.md).", config="", keys=False).parse(argv)
        say(page().splitlines())

    return run_command(work)


def page() -> str:
    """The content of docs/config.md."""
    sections: dict[str, list[str]] = {}
    about = {"": "the one key outside of the sections"}
    for name, default, meaning in _statements(Path(defaults.__file__).read_text(encoding="utf-8")):
        if default == "CfgNode()":
            sections[name], about[name] = [], meaning
        else:
            cells = f"`{name}`", f"`{default}`", accepted_values(name), _KEY.sub(r"`\g<0>`", meaning)
            row = " | ".join(cell.replace("|", "\\|") for cell in cells)
            sections.setdefault(name.rpartition(".")[0], []).append(f"| {row} |")
    text = _INTRODUCTION
    for name, rows in sections.items():
        sentence = _KEY.sub(r"`\g<0>`", about[name][0].upper() + about[name][1:])
        text += f"\n\n## {name or 'OUTPUT_DIR'}\n\n{sentence}.\n\n"
        text += "| key | default | accepted | meaning |\n|---|---|---|---|\n" + "\n".join(rows)
    return f"{text}\n"


def _statements(source: str) -> Iterator[tuple[str, str, str]]:
    """(dotted key or section, its default as written, its comment) of each line `_C.KEY = default  # comment`."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            default = ast.get_source_segment(source, node.value)
            comment = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
            yield ast.unparse(node.targets[0]).removeprefix("_C."), default.replace('"', "'"), comment.strip("# ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

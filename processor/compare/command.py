"""Compare tested runs: scores with intervals, differences with p-values, and the queries that changed.

python -m processor.compare RUN RUN ... [--all-pairs] [--out FOLDER [--sheet N]]

A RUN is the OUTPUT_DIR of a training or a test, a folder with seed<number> below it (as an ablation leaves them), or
several folders as one row: NAME=FOLDER,FOLDER,... Every row is compared with the first; all must be tests of the same
queries. Without --out the result is on the screen alone; with it compare.csv, queries.csv and, with --sheet, pictures
of the queries that changed most are written.
"""

import argparse
import logging
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from configs import ConfigError
from configs.command import CommandParser, run_command, say
from utils.errors import InputError

if TYPE_CHECKING:
    from processor.compare.runs import Row

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Print the comparison and write the files asked for; returns the exit code."""

    def work() -> None:
        arguments = _parse(argv)
        _compare(arguments, _named(arguments.runs))

    return run_command(work)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        "Compare tested runs query by query: differences with 95 % intervals and p-values.", config="", keys=False,
        usage="python -m processor.compare RUN RUN ... [--all-pairs] [--out FOLDER [--sheet N]]",
    )  # fmt: skip
    parser.add_argument("--all-pairs", action="store_true", help="every pair of rows; default: each with the first")
    parser.add_argument("--out", type=Path, help="folder for compare.csv and queries.csv; default: the screen alone")
    parser.add_argument("--sheet", type=int, default=0, metavar="N", help="also picture the N most changed queries")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="OUTPUT_DIR, folder of seeds, or NAME=FOLDER,FOLDER,...")
    arguments = parser.parse(argv)
    if len(arguments.runs) < 2:
        parser.error(f"a comparison needs at least two RUNs, found {len(arguments.runs)}")
    if arguments.sheet < 0:
        parser.error(f"--sheet {arguments.sheet} is no number of queries")
    if arguments.sheet and arguments.out is None:
        parser.error("--sheet writes pictures; name their folder with --out")
    return arguments


def _named(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Row name -> folders. A row without NAME is called by the end of its path, or by the whole where two end alike."""
    given = [_split(text) for text in texts]
    ends = [name or folders[0].resolve().name for name, folders in given]
    rows: dict[str, list[Path]] = {}
    for end, (name, folders) in zip(ends, given):
        called = end if name or ends.count(end) == 1 else str(folders[0])
        if called in rows:
            raise ConfigError(f"command line: two rows are called {called}; give one another name: NAME={folders[0]}")
        rows[called] = folders
    return rows


def _split(text: str) -> tuple[str, list[Path]]:
    """(name, empty where none is given; folders) of a RUN; an existing folder is one even if its name holds '='."""
    if not text:
        raise ConfigError("command line: a RUN is empty")
    name, equals, folders = text.partition("=")
    if not equals or Path(text).exists():
        return "", [Path(text)]
    paths = [Path(folder) for folder in folders.split(",") if folder]
    if not name or not paths:
        raise ConfigError(f"command line: RUN {text} is neither a folder nor NAME=FOLDER,FOLDER,...")
    return name, paths


def _compare(arguments: argparse.Namespace, named: dict[str, list[Path]]) -> None:
    from processor.compare import table
    from processor.compare.differences import compare, scores_of
    from processor.compare.runs import check_comparable, choices, load_row

    rows = check_comparable([load_row(name, folders) for name, folders in named.items()])
    if arguments.out is not None:
        _make(arguments.out)
        for picture in arguments.out.glob("changes*.png"):  # of an earlier comparison
            picture.unlink()
    pairs = [(second, first) for first, second in combinations(rows, 2) if arguments.all_pairs or first is rows[0]]
    scores, differences = [scores_of(row) for row in rows], compare(pairs)
    say(
        [
            *table.size_lines(rows), *choices(rows), "",
            *table.score_lines(rows, scores), "",
            *table.difference_lines(differences),
        ]
    )  # fmt: skip
    if arguments.out is None:
        return
    written = [arguments.out / table.TABLE, arguments.out / table.QUERIES]
    table.save_table(written[0], rows, scores, differences)
    table.save_queries(written[1], rows)
    if arguments.sheet:
        written += _draw(arguments, pairs)
    logger.info("wrote %s", ", ".join(map(str, written)))


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror})") from None


def _draw(arguments: argparse.Namespace, pairs: Sequence[tuple["Row", "Row"]]) -> list[Path]:
    """A sheet for each pair with changes; none, said once, where the frames cannot be reached."""
    from configs import load_cfg
    from datasets import check_frames_present, configured_splits
    from processor.compare import sheet

    try:
        splits = configured_splits(load_cfg(*sheet.config_of(pairs[0][1])))
        check_frames_present(splits)
        pictures = [sheet.lines_of(row, against, splits, arguments.sheet) for row, against in pairs]
    except InputError as error:
        logger.warning("no sheet is drawn: %s", error.line)
        return []
    written = []
    for number, ((row, against), lines) in enumerate(zip(pairs, pictures), start=1):
        if lines:
            path = arguments.out / sheet.NAME.format(number=number)
            written.append(sheet.save_changes(path, row, against, lines, splits))
        else:
            logger.info("no query of %s has another AP than with %s: no sheet", row.name, against.name)
    return written

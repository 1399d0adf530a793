"""Opens every list and every frame of a data set before a GPU hour is spent.

python -m datasets.check --config_file F [--fix-list FILE] [--all] [KEY VALUE ...]

0 no problem found; 1 problems; 2 a list that cannot be read or wrong arguments, said in one line; 130 Ctrl-C.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from yacs.config import CfgNode

from configs import ConfigError, load_cfg
from datasets import ilidsvid, lsvid, mars
from datasets.build import dataset_options, load_raw, official_name
from datasets.check_files import scan_folders
from datasets.check_fix import leave_out, refuse_unwritable, write_list
from datasets.check_problems import (
    Disk,
    Ranking,
    counted,
    find_problems,
    folder_problems,
    named_frames,
    row_notes,
    row_problems,
    shared_ids,
)
from datasets.check_report import (
    Official,
    exclusion_notes,
    fix_lines,
    odd_shapes,
    other_counts,
    problem_lines,
    short_identities,
    table,
)
from datasets.exclusion import read_exclusions
from datasets.frame_check import OpenedFrame, open_frames
from datasets.own_ids import printable
from datasets.tracklet import Fault, RawSplits
from utils.errors import InputError

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "vit_base.yml"
_INTERRUPTED = 130
_FRAMES_PER_PROCESS = 20_000  # a process that has fewer to open costs more time to start than it saves


class _Facts(NamedTuple):
    """What is known of a data set by its name."""

    official: Official
    distractor: int | None = None  # the id that stands for nobody
    may_number_twice: bool = False  # train and test may both count their persons from the same number on
    junk: str | None = None  # how the names of frames begin that the lists need not name; None: cannot be told


_KNOWN = {
    "MARS": _Facts(mars.OFFICIAL, distractor=0, junk="00-1"),
    "LS-VID": _Facts(lsvid.OFFICIAL, distractor=0, may_number_twice=True),
    "iLIDS-VID": _Facts(ilidsvid.OFFICIAL),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message} (see --help)")


def main(argv: Sequence[str]) -> int:
    """Check the data set of the config; returns the exit code."""
    try:
        arguments = _parse(argv)
        return _check(load_cfg(arguments.config_file, arguments.opts), arguments)
    except (ConfigError, InputError) as error:
        _say([f"error: {error.line if isinstance(error, InputError) else error}"], sys.stderr)
        return 2
    except KeyboardInterrupt:
        _say(["stopped by Ctrl-C"], sys.stderr)
        return _INTERRUPTED


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    about = "Open every list and every frame of a data set."
    parser = _Parser(prog="python -m datasets.check", description=about, allow_abbrev=False)
    parser.add_argument(
        "--config_file", "--config-file", type=Path, default=DEFAULT_CONFIG, help="YAML file (configs/vit_base.yml)"
    )
    parser.add_argument(
        "--fix-list", "--fix_list", type=Path, metavar="FILE", help="write frames to leave out, for DATASETS.EXCLUDE"
    )
    parser.add_argument("--all", action="store_true", help="name every problem, not the first ten of a kind")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys, e.g. DATASETS.ROOT_DIR /data/MARS")
    return parser.parse_intermixed_args(argv)


def _check(cfg: CfgNode, arguments: argparse.Namespace) -> int:
    name = official_name(cfg.DATASETS.NAMES)
    facts = _KNOWN.get(name, _Facts({}))
    if arguments.fix_list is not None:
        refuse_unwritable(arguments.fix_list)
    exclusions = read_exclusions(cfg.DATASETS.EXCLUDE)
    whole, faults = _read_lists(cfg, name)
    kept = exclusions.apply(whole)
    _say([f"{name} in {whole.root}", *table(kept, facts.official)])

    opened = _open(kept, cfg.DATALOADER.NUM_WORKERS)
    folders = scan_folders(whole.root, named_frames(whole, faults))
    ranking = _ranking(cfg, whole, facts)
    find = partial(find_problems, disk=Disk(opened, folders.bare), ranking=ranking)
    remaining = [fault for fault in faults if not exclusions.cover(fault)]
    problems = [
        *row_problems(remaining),
        *folder_problems(whole.root, folders, faults, facts.junk),
        *find(kept),
    ]
    notes = [
        *other_counts(kept, facts.official),
        *row_notes(remaining),
        *short_identities(kept, cfg.DATALOADER.NUM_INSTANCE),
        *odd_shapes(kept, opened),
        *exclusion_notes(whole, kept, faults, exclusions),
    ]
    if not ranking.ids_are_shared:
        notes.append("train and test number their persons separately, so ids cannot tell whether a person is in both")
    _say([*(f"note: {note}" for note in notes), *problem_lines(problems, arguments.all)])
    if arguments.fix_list is not None:
        rows, incurable = leave_out(whole, exclusions, problems, find)
        write_list(arguments.fix_list, rows)
        _say(fix_lines(arguments.fix_list, rows, incurable))
    _say([f"{counted(len(problems), 'problem')} found (see above)" if problems else "no problem found"])
    return int(bool(problems))


def _read_lists(cfg: CfgNode, name: str) -> tuple[RawSplits, list[Fault]]:
    """All tracklets that the lists name, and the faults of single rows."""
    options = dataset_options(cfg, name)
    if options.get("split") == "all":
        options["split"] = "0"  # the ten splits part the same tracklets, and the parser reads all their rows
    faults: list[Fault] = []
    return load_raw(name, cfg.DATASETS.ROOT_DIR, faults.append, **options), faults


def _open(raw: RawSplits, most: int) -> dict[str, OpenedFrame]:
    """Open every frame once, in at most `most` processes, and say how long it took."""
    paths = sorted(named_frames(raw))
    processes = min(most, os.cpu_count() or 1, len(paths) // _FRAMES_PER_PROCESS)
    started = time.perf_counter()
    opened = open_frames(paths, processes)
    seconds = max(time.perf_counter() - started, 1e-9)
    where = f"{counted(processes, 'process')}, start included" if processes else "in this process"
    _say([f"{counted(len(paths), 'frame')} opened in {seconds:.1f} s: {len(paths) / seconds:,.0f} frames/s, {where}"])
    return opened


def _ranking(cfg: CfgNode, raw: RawSplits, facts: _Facts) -> Ranking:
    """What the test of this config ranks."""
    includes = {"auto": raw.gallery_includes_query, "True": True, "False": False}[cfg.TEST.GALLERY_INCLUDES_QUERY]
    camera_filter = {"auto": len(raw.cameras) > 1, "True": True, "False": False}[cfg.TEST.SAME_CAMERA_FILTER]
    # A few shared ids are a fault of the lists; when most are shared, the two lists count for themselves.
    most_shared = 2 * len(shared_ids(raw)) > len({t.pid for t in raw.train})
    return Ranking(includes, camera_filter, facts.distractor, not (facts.may_number_twice and most_shared))


def _say(lines: Sequence[str], stream: TextIO | None = None) -> None:
    """Print, whatever a file name holds; a reader that closed the pipe, such as `head`, stops no check."""
    stream = sys.stdout if stream is None else stream
    coding = stream.encoding or "utf-8"
    try:
        for line in lines:
            print(printable(line).encode(coding, "backslashreplace").decode(coding), file=stream)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

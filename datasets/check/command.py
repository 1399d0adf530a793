"""Opens every list and every frame of a data set before a GPU hour is spent.

python -m datasets.check --config_file F [--fix-list FILE] [--all] [KEY VALUE ...]

Exit codes: 0 no problem found; 1 problems; 2 a list that cannot be read or wrong arguments; 130 Ctrl-C.
"""

import argparse
import os
import time
from collections.abc import Iterable, Sequence

from yacs.config import CfgNode

from configs import load_cfg, resolve_auto
from configs.command import CommandParser, run_command, say
from datasets.build import (
    build_sampler,
    check_split_key,
    dataset_options,
    finish_splits,
    items_of,
    load_raw,
    split_numbers,
)
from datasets.check.base import Disk, Problem, counted, frames_to_check, named_frames
from datasets.check.fix_list import check_writable, earlier_reasons, leave_out, write_list
from datasets.check.folders import scan_folders, unused_images
from datasets.check.problems import (
    Rules,
    find_problems,
    folder_problems,
    parts_with_own_numbers,
    row_notes,
    row_problems,
)
from datasets.check.report import (
    exclusion_notes,
    fix_lines,
    odd_shapes,
    other_counts,
    problem_lines,
    remark_notes,
    short_identities,
    table,
    unused_note,
)
from datasets.exclusion import Exclusions, read_exclusions
from datasets.frames import OpenedFrame, open_frames
from datasets.items import TrainItems
from datasets.registry import find_dataset
from datasets.regular import expanded
from datasets.tracklet import DataSet, Fault, RawSplits
from utils.errors import InputError

_FRAMES_PER_PROCESS = 20_000  # with fewer frames a process takes more time to start than it saves


def main(argv: Sequence[str]) -> int:
    """Check the data set of the config; returns the exit code."""

    def work() -> int:
        arguments = _parse(argv)
        return _check(load_cfg(arguments.config_file, arguments.opts), arguments)

    return run_command(work)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    about = "Open every list and every frame of a data set."
    parser = CommandParser(about, prog="python -m datasets.check")
    about = "write frames to leave out, for DATASETS.EXCLUDE"
    parser.add_argument("--fix-list", "--fix_list", type=expanded, metavar="FILE", help=about)
    parser.add_argument("--all", action="store_true", help="name every problem, not the first ten of a kind")
    return parser.parse(argv)


def _check(cfg: CfgNode, arguments: argparse.Namespace) -> int:
    dataset = find_dataset(cfg.DATASETS.NAMES)
    several = dataset.num_splits > 1
    check_split_key(cfg)
    if arguments.fix_list is not None:
        check_writable(arguments.fix_list)
    exclusions = read_exclusions(cfg.DATASETS.EXCLUDE)
    splits, faults = _read_lists(cfg, dataset)
    kept = {number: exclusions.apply(raw) for number, raw in splits.items()}
    number = next(iter(splits))
    first, first_kept = splits[number], kept[number]
    root = first.root
    shown = f", split {number} of the {len(splits)} that are checked" if len(splits) > 1 else ""
    items = items_of(dataset, cfg.DATASETS.TRAIN_ITEMS)
    epoch = _epoch_line(cfg, dataset, first_kept, items)
    say([f"{dataset.name} in {root}{shown}", *table(first_kept, dataset.official), *epoch])
    if cfg.DATASETS.PACK:
        say(["files are checked, not DATASETS.PACK; python -m datasets.pack --check compares it with the files"])

    opened = _open(kept.values(), cfg.DATALOADER.NUM_WORKERS)
    named = named_frames(splits.values(), faults)
    folders = scan_folders(root, named)
    unused = unused_images(root, named, dataset.spare) if dataset.spare is not None else ()
    rules, disk = _rules(cfg, first, dataset), Disk(opened, folders.empty_named)

    def find(left_out: Exclusions) -> list[Problem]:
        rest = {number: left_out.apply(raw) for number, raw in splits.items()}
        return find_problems(rest, several, disk, rules)

    remaining = [fault for fault in faults if not exclusions.cover(fault)]
    problems = [
        *row_problems(remaining, several),
        *folder_problems(root, folders, faults, dataset.junk),
        *find(exclusions),
    ]
    notes = [
        *_config_notes(cfg, rules),
        *other_counts(first_kept, dataset.official),
        *row_notes(remaining),
        *short_identities(first_kept, items.cut(first_kept.train), cfg.DATALOADER.NUM_INSTANCE),
        *odd_shapes(root, frames_to_check(kept.values(), several), opened),
        *remark_notes(root, frames_to_check(kept.values(), several), opened),
        *unused_note(root, unused),
        *exclusion_notes(list(splits.values()), faults, exclusions, several),
    ]
    say([*(f"note: {note}" for note in notes), *problem_lines(problems, arguments.all)])
    if arguments.fix_list is not None:
        rows, unsolved = leave_out(earlier_reasons(cfg.DATASETS.EXCLUDE), problems, find)
        write_list(arguments.fix_list, rows)
        say(fix_lines(arguments.fix_list, rows, unsolved))
    say([f"{counted(len(problems), 'problem')} found (see above)" if problems else "no problem found"])
    return int(bool(problems))


def _read_lists(cfg: CfgNode, dataset: DataSet) -> tuple[dict[str, RawSplits], list[Fault]]:
    """Number of each split to check ('0' for a set of one) -> its tracklets, and the faults of single rows."""
    options = dataset_options(cfg, dataset.name)
    faults: dict[Fault, None] = {}  # without repetition: the splits of a set share their faults
    splits = {}
    for number in split_numbers(cfg):
        if "split" in options:
            options["split"] = number
        splits[number] = load_raw(dataset.name, cfg.DATASETS.ROOT_DIR, faults.setdefault, **options)
    return splits, list(faults)


def _open(splits: Iterable[RawSplits], most_processes: int) -> dict[str, OpenedFrame]:
    """Open every frame once and say how long it took."""
    paths = sorted(named_frames(splits))
    processes = min(most_processes, os.cpu_count() or 1, len(paths) // _FRAMES_PER_PROCESS)
    started = time.perf_counter()
    opened = open_frames(paths, processes)
    seconds = max(time.perf_counter() - started, 1e-9)
    where = f"{counted(processes, 'process')}, start included" if processes else "in this process"
    say([f"{counted(len(paths), 'frame')} opened in {seconds:.1f} s: {len(paths) / seconds:,.0f} frames/s, {where}"])
    return opened


def _rules(cfg: CfgNode, raw: RawSplits, dataset: DataSet) -> Rules:
    return Rules(
        includes_query=resolve_auto(cfg.TEST.GALLERY_INCLUDES_QUERY, raw.gallery_includes_query),
        camera_filter=resolve_auto(cfg.TEST.SAME_CAMERA_FILTER, len(raw.cameras) > 1),
        distractor=dataset.distractor,
        own_numbers=parts_with_own_numbers(raw) if dataset.may_number_twice else (),
        batch_identities=cfg.SOLVER.IMS_PER_BATCH // cfg.DATALOADER.NUM_INSTANCE,
        val_fraction=cfg.DATASETS.VAL_FRACTION if cfg.SOLVER.SELECT_BY == "val" else 0.0,
        seed=cfg.SOLVER.SEED,
    )


def _epoch_line(cfg: CfgNode, dataset: DataSet, raw: RawSplits, items: TrainItems) -> list[str]:
    """Training items and batches of an epoch; nothing where no training can start, which is a problem of its own."""
    fraction = cfg.DATASETS.VAL_FRACTION if cfg.SOLVER.SELECT_BY == "val" else 0.0
    try:
        splits = finish_splits(dataset.name, raw, items, fraction, cfg.SOLVER.SEED)
        batches = len(build_sampler(cfg, splits))
    except InputError:
        return []
    size = cfg.SOLVER.IMS_PER_BATCH
    return [f"{len(splits.train):,} training items ({items}), {counted(batches, 'batch')} of {size} in the first epoch"]


def _config_notes(cfg: CfgNode, rules: Rules) -> list[str]:
    """What this check cannot tell."""
    notes = ["only the set of DATASETS.NAMES is checked, not those of TEST.DATASETS"] if cfg.TEST.DATASETS else []
    for split, others in rules.own_numbers:
        other = others[0] if len(others) == 1 else "test"
        notes.append(
            f"{split} and {other} number their persons separately, so ids cannot tell whether a person is in both"
        )
    return notes

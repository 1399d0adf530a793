"""Writes a synthetic person re-identification data set of walking figures, in the layout of MARS or another."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from configs.command import CommandParser, run_command, say
from datasets.synthetic.image_layouts import MARKET1501, MSMT17
from datasets.synthetic.layouts import ILIDS, LSVID, MARS, Layout, one_by_one
from datasets.synthetic.own_layouts import FOLDER, MANIFEST, VIDEO
from datasets.synthetic.walks import Plan, Walk
from utils.errors import InputError
from utils.progress import progress as show

VERSION, RECORD = 2, "synthetic.json"  # VERSION rises whenever equal arguments come to draw other pictures
LAYOUTS = {
    "mars": MARS, "lsvid": LSVID, "ilids": ILIDS, "market1501": MARKET1501, "msmt17": MSMT17, "folder": FOLDER,
    "manifest": MANIFEST, "video": VIDEO,
}  # fmt: skip

# What the sets of all layouts have at their top.
_WRITTEN = {
    RECORD, "bbox_train", "bbox_test", "info", "list_sequence", "tracklet_train", "tracklet_test", "tracklet_val",
    "test", "val", "i-LIDS-VID", "train-test people splits", "iLIDS-VID.tar", "train", "query", "gallery",
    "manifest.csv", "pictures", "videos", "bounding_box_train", "bounding_box_test", "mask_train_v2", "mask_test_v2",
    "list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt",
}  # fmt: skip


def _draw_all(
    layout: Layout, portions: Sequence[Sequence[Walk]], plan: Plan, root: Path, workers: int, progress: bool
) -> list[list]:
    """Draw every walk, in this process (workers 0) or in several; what `draw` gives for each, in the same order."""
    job = partial(layout.draw, plan=plan, root=root)
    unit = "tracklet" if layout.portions is one_by_one else "camera"
    bar = partial(show, title="drawing", unit=unit, total=len(portions), hidden=not progress)
    if workers == 0:
        return list(chain.from_iterable(bar(map(job, portions))))
    # Workers inherit the ignored Ctrl-C: the parent alone ends the run, and no worker prints a traceback.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers)
    finally:
        signal.signal(signal.SIGINT, before)
    with pool:
        return list(chain.from_iterable(bar(pool.imap(job, portions))))


def finished(root: Path, arguments: dict, overwrite: bool) -> dict | None:
    """The counts of this very set in `root`, None where it is to be written; InputError for anything in the way."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        record = json.loads((root / RECORD).read_text())
        same, counts = record["arguments"] == arguments, record["counts"]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{root} is there and holds no {RECORD} of ours: choose another --root") from None
    strangers = sorted({path.name for path in root.iterdir()} - _WRITTEN)
    if strangers and not same:
        raise InputError(f"{root} holds {strangers[0]}, which is not of the set: choose another --root")
    if not (same or overwrite):
        raise InputError(f"{root} holds a synthetic set with other arguments: choose another --root or --overwrite")
    return counts if same else None


def _plan(name: str, arguments: dict[str, Any]) -> Plan:
    """The checked plan; what `arguments` leaves out is the default, or the nearest value that the layout allows."""
    limits = LAYOUTS[name].limits
    nearest = {part: min(max(getattr(Plan, part), low), high) for part, (low, high) in limits.items()}
    plan = Plan(**(nearest | arguments))
    plan.check()
    for part, (low, high) in limits.items():
        if not low <= getattr(plan, part) <= high:
            allowed = str(low) if low == high else f"{low} to {high}"
            raise InputError(f"{part} must be {allowed} with --layout {name}, not {getattr(plan, part)}")
    return plan


def _options(name: str, wanted: dict[str, bool]) -> dict[str, bool]:
    """The options of the layout; raises InputError for one that belongs to another layout."""
    for option, asked in wanted.items():
        if asked and option not in LAYOUTS[name].options:
            owner = next(other for other, layout in LAYOUTS.items() if option in layout.options)
            raise InputError(f"--{option.replace('_', '-')} belongs to --layout {owner}, not {name}")
    return {option: wanted[option] for option in LAYOUTS[name].options}


def write_set(
    root: Path, layout: str = "mars", *, workers: int = 2, overwrite: bool = False, progress: bool = False,
    lists_in_info: bool = False, tar: bool = False, **arguments: Any,
) -> dict:  # fmt: skip
    """Write the set into `root` unless it is there already (up_to_date); the counts of tracklets, frames and queries.

    `layout` is one of LAYOUTS; `lists_in_info` chooses the other layout of LS-VID, `tar` the archive of iLIDS-VID. The
    further keyword arguments are the fields of Plan. Raises InputError for bad ones or a folder in the way.
    Unless workers is 0 it must be called from the main thread, because it holds back Ctrl-C while workers start.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    options = _options(layout, {"lists_in_info": lists_in_info, "tar": tar})
    plan, root = _plan(layout, arguments), Path(root).resolve()
    if not 0 <= workers <= 64:
        raise InputError(f"workers must be 0 to 64, not {workers}")
    # Sets in the layout of MARS were written before there were others, so that their records name none.
    named = {} if layout == "mars" else {"layout": layout, **options}
    recorded = json.loads(json.dumps({"version": VERSION, **named, **asdict(plan)}))
    part, old = (root.parent / f".{root.name}.{kind}-{os.getpid()}" for kind in ("part", "old"))
    try:
        if counts := finished(root, recorded, overwrite):
            return counts | {"up_to_date": True}
        part.mkdir(parents=True)
        portions = LAYOUTS[layout].portions(LAYOUTS[layout].walks(plan))
        drawn = _draw_all(LAYOUTS[layout], portions, plan, part, workers, progress)
        counts = LAYOUTS[layout].describe(part, plan, list(chain.from_iterable(portions)), drawn, **options)
        (part / RECORD).write_text(json.dumps({"arguments": recorded, "counts": counts}, indent=1) + "\n")
        if root.exists():
            root.rename(old)
        part.rename(root)
    except OSError as fault:
        raise InputError(f"cannot write {root}: {fault.strerror or fault}") from fault
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
    return counts | {"up_to_date": False}


def write_mars(
    root: Path, *, workers: int = 2, overwrite: bool = False, progress: bool = False, **arguments: Any
) -> dict:
    """`write_set` in the layout of MARS."""
    return write_set(root, workers=workers, overwrite=overwrite, progress=progress, **arguments)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__, config="", keys=False, prog="python -m datasets.synthetic")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    about = "how the files lie (default mars; ilids has 2 cameras and 1 tracklet in each)"
    parser.add_argument("--layout", choices=LAYOUTS, default="mars", help=about)
    for part in fields(Plan):
        shape = {} if isinstance(part.default, int) else {"nargs": 2, "metavar": part.metadata["bounds"]}
        about = f"{part.metadata['help']} (default {part.default})"
        # Suppressed defaults tell what was asked for from what a layout may adapt.
        parser.add_argument(
            f"--{part.name.replace('_', '-')}", type=int, default=argparse.SUPPRESS, help=about, **shape
        )
    parser.add_argument("--lists-in-info", action="store_true", help="lsvid: the lists in info/, as in other copies")
    parser.add_argument("--tar", action="store_true", help="ilids: the archive as it is handed out, not unpacked")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 draws in this one (default 2)")
    parser.add_argument("--overwrite", action="store_true", help="replace a synthetic set with other arguments")
    return parser.parse(argv)


def main(argv: Sequence[str]) -> int:
    """Write the set, or find it written; returns the exit code."""

    def work() -> None:
        arguments = vars(_parse(argv))
        try:
            counts = write_set(**arguments, progress=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped by Ctrl-C, nothing is left behind") from None
        state = "up to date" if counts.pop("up_to_date") else "written"
        number = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        say([f"{arguments['root']}: {state}, {number}"])

    return run_command(work)

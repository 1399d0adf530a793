"""Writes a synthetic person re-identification data set of walking figures, in the layout of MARS or another."""

import argparse
import json
import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.command import CommandParser, run_command, say
from datasets.regular import expanded
from datasets.synthetic.image_layouts import MARKET1501, MSMT17
from datasets.synthetic.layouts import ILIDS, LSVID, MARS, Layout
from datasets.synthetic.own_layouts import FOLDER, MANIFEST, VIDEO
from datasets.synthetic.walks import Plan, Walk
from utils.errors import InputError
from utils.progress import progress as show

VERSION, RECORD = 2, "synthetic.json"  # VERSION rises whenever equal arguments come to draw other pictures
LAYOUTS = {
    "mars": MARS, "lsvid": LSVID, "ilids": ILIDS, "market1501": MARKET1501, "msmt17": MSMT17, "folder": FOLDER,
    "manifest": MANIFEST, "video": VIDEO,
}  # fmt: skip
_OPTIONS = {"lists_in_info": "lsvid", "tar": "ilids"}  # option of one layout alone -> that layout

# The files and folders right below the root, of all layouts together.
_TOP_NAMES = {
    RECORD, "bbox_train", "bbox_test", "info", "list_sequence", "tracklet_train", "tracklet_test", "tracklet_val",
    "test", "val", "i-LIDS-VID", "train-test people splits", "iLIDS-VID.tar", "train", "query", "gallery",
    "manifest.csv", "pictures", "videos", "bounding_box_train", "bounding_box_test", "mask_train_v2", "mask_test_v2",
    "list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt",
}  # fmt: skip


def _portions(layout: Layout, plan: Plan) -> list[list[Walk]]:
    """The walks that are drawn in one piece: all walks past a camera, or each one by itself."""
    walks = [walk for walk in layout.walks(plan) if walk.pid >= layout.lowest_pid]
    if not layout.by_camera:
        return [[walk] for walk in walks]
    cameras = sorted({walk.camera for walk in walks})
    return [[walk for walk in walks if walk.camera == camera] for camera in cameras]


def _draw_all(
    layout: Layout, portions: Sequence[Sequence[Walk]], plan: Plan, root: Path, workers: int, progress: bool
) -> list[list]:
    """Draw the portions in this process (workers 0) or in several; what `draw` returns for each walk, in order."""
    job = partial(layout.draw, plan=plan, root=root)
    unit = "camera" if layout.by_camera else "tracklet"
    bar = partial(show, title="drawing", unit=unit, total=len(portions), hidden=not progress)
    if workers == 0:
        return list(chain.from_iterable(bar(map(job, portions))))
    # Workers inherit that Ctrl-C is ignored: this process alone ends them, and none prints a traceback.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers)
    finally:
        signal.signal(signal.SIGINT, before)
    with pool:
        return list(chain.from_iterable(bar(pool.imap(job, portions))))


def _recorded_counts(root: Path, arguments: dict, overwrite: bool) -> dict | None:
    """The counts of the set in `root` when it was drawn with the same arguments; None when it is to be written.

    Raises InputError when `root` holds anything that may not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        record = json.loads((root / RECORD).read_text())
        same, counts = record["arguments"] == arguments, record["counts"]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{root} exists without a {RECORD} of this command: choose another --root") from None
    foreign = sorted({path.name for path in root.iterdir()} - _TOP_NAMES)
    if foreign and not same:
        raise InputError(f"{root} holds {foreign[0]}, which is not of the set: choose another --root")
    if not (same or overwrite):
        raise InputError(f"{root} holds a synthetic set with other arguments: choose another --root or --overwrite")
    return counts if same else None


def _plan(name: str, arguments: dict[str, Any]) -> Plan:
    """The checked plan; a field that is not in `arguments` gets the allowed value that is nearest to its default."""
    limits = LAYOUTS[name].limits
    nearest = {part: min(max(getattr(Plan, part), low), high) for part, (low, high) in limits.items()}
    plan = Plan(**(nearest | arguments))
    plan.check(name, limits)
    return plan


def write_set(
    root: Path, layout: str = "mars", *, workers: int = 2, overwrite: bool = False, progress: bool = False,
    lists_in_info: bool = False, tar: bool = False, **arguments: Any,
) -> dict:  # fmt: skip
    """Write the set into `root`; the counts of tracklets or images, of queries, and whether it was `up_to_date`.

    `layout` is one of LAYOUTS; `lists_in_info` chooses the other layout of LS-VID, `tar` the archive of iLIDS-VID. The
    further keyword arguments are the fields of Plan. A set that was drawn with the same arguments is left as it is.
    Raises InputError for bad arguments, or when `root` holds anything that may not be replaced. Unless workers is 0 it
    must be called from the main thread, because it holds back Ctrl-C while workers start.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    given = {"lists_in_info": lists_in_info, "tar": tar}
    options = {option: value for option, value in given.items() if _OPTIONS[option] == layout}
    for option in (option for option, value in given.items() if value and option not in options):
        raise InputError(f"--{option.replace('_', '-')} belongs to --layout {_OPTIONS[option]}, not {layout}")
    plan, root = _plan(layout, arguments), Path(root).resolve()
    if not 0 <= workers <= 64:
        raise InputError(f"workers must be 0 to 64, not {workers}")
    # The record of a set in the layout of MARS names no layout, as it was before there were others.
    named = {} if layout == "mars" else {"layout": layout, **options}
    recorded = json.loads(json.dumps({"version": VERSION, **named, **asdict(plan)}))
    try:
        if counts := _recorded_counts(root, recorded, overwrite):
            return counts | {"up_to_date": True}
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent, ignore_cleanup_errors=True) as folder:
            new = Path(folder) / "new"
            new.mkdir()
            portions = _portions(LAYOUTS[layout], plan)
            drawn = _draw_all(LAYOUTS[layout], portions, plan, new, workers, progress)
            counts = LAYOUTS[layout].describe(new, plan, list(chain.from_iterable(portions)), drawn, **options)
            (new / RECORD).write_text(json.dumps({"arguments": recorded, "counts": counts}, indent=1) + "\n")
            if root.exists():
                root.rename(Path(folder) / "old")
            new.rename(root)
    except OSError as fault:
        raise InputError(f"cannot write {root}: {fault.strerror or fault}") from fault
    return counts | {"up_to_date": False}


write_mars = partial(write_set, layout="mars")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(__doc__, config="", keys=False, prog="python -m datasets.synthetic")
    parser.add_argument("--root", type=expanded, required=True, help="folder of the data set")
    about = "how the files lie (default mars; ilids has 2 cameras and 1 tracklet in each)"
    parser.add_argument("--layout", choices=LAYOUTS, default="mars", help=about)
    for part in fields(Plan):
        shape = {} if isinstance(part.default, int) else {"nargs": 2, "metavar": part.metadata["names"]}
        about = f"{part.metadata['help']} (default {part.default})"
        # An option that is not given stays out of the arguments, so that the layout may choose another default.
        option = f"--{part.name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=argparse.SUPPRESS, help=about, **shape)
    parser.add_argument("--lists-in-info", action="store_true", help="lsvid: the lists in info/, as in other copies")
    parser.add_argument("--tar", action="store_true", help="ilids: the archive as it is handed out, not unpacked")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 draws in this one (default 2)")
    parser.add_argument("--overwrite", action="store_true", help="replace a synthetic set with other arguments")
    return parser.parse(argv)


def main(argv: Sequence[str]) -> int:
    """Write the set unless it is up to date; returns the exit code."""

    def work() -> None:
        arguments = vars(_parse(argv))
        try:
            counts = write_set(**arguments, progress=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped by Ctrl-C, nothing is left behind") from None
        state = "up to date" if counts.pop("up_to_date") else "written"
        numbers = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        say([f"{arguments['root']}: {state}, {numbers}"])

    return run_command(work)

"""The public data sets' layouts that the synthetic walks can be written in: MARS, LS-VID and iLIDS-VID."""

import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from datasets.synthetic.walks import CAMERAS, JUNK, Plan, Walk, generator, plan_tracklets, plan_validation, render
from utils.errors import InputError

_WRITTEN_BY = "MAT-file, walking figures"
_MOST_ILIDS_PEOPLE, _ILIDS_SPLITS = 750, 10
# Where the first tracklet of a test person in a camera is the query, a single one would leave no gallery.
TWO_TRACKLETS = {"tracklets": (2, 9)}


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    draw(walks, plan, root) writes the pictures of some walks and returns for each walk one item per frame.
    describe(root, plan, walks, drawn, **options) writes the lists from the items of all walks and returns the counts.
    """

    draw: Callable[..., list[list]]
    describe: Callable[..., dict[str, int]]
    walks: Callable[[Plan], list[Walk]] = plan_tracklets
    lowest_pid: int = JUNK  # of what the layout holds: JUNK, DISTRACTOR (no junk) or 1 (people alone)
    by_camera: bool = False  # whether `draw` gets all walks past one camera at once; else one walk
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # closer bounds of fields of Plan


def draw_images(
    walks: Sequence[Walk],
    plan: Plan,
    root: Path,
    name: Callable[[Walk, Plan, int], str],
    pictures: Callable[[Walk, Plan], list[np.ndarray]] = render,
) -> list[list[str]]:
    """Write the pictures of each walk at name(walk, plan, number from 1) below `root`; the names for each walk."""
    drawn = []
    for walk in walks:
        names = []
        for number, picture in enumerate(pictures(walk, plan), 1):
            names.append(name(walk, plan, number))
            (root / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            # The quality matters to JPEG alone.
            Image.fromarray(picture).save(root / names[-1], quality=CAMERAS[walk.camera - 1].quality)
        drawn.append(names)
    return drawn


def count_walks(root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence]) -> dict[str, int]:
    """Tracklets and frames of each split, and queries of the test; the `describe` of a layout without lists."""
    counts = {}
    for split in dict.fromkeys(walk.split for walk in walks):
        lengths = [len(frames) for walk, frames in zip(walks, drawn) if walk.split == split]
        counts |= {f"{split}_tracklets": len(lengths), f"{split}_frames": sum(lengths)}
    return counts | {"queries": sum(walk.is_query for walk in walks if walk.split == "test")}


def first_frame(walk: Walk, plan: Plan) -> int:
    """The number (2 to 4999) of a walk's first frame, for layouts in which a camera numbers its frames throughout."""
    return int(generator(3, plan.seed, walk.pid, walk.camera, walk.number).integers(2, 5000))


def _save_matlab5(path: Path, variable: str, value: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: value})
    # The header names the time of writing, which would differ between two equal runs.
    path.write_bytes(f"MATLAB 5.0 {_WRITTEN_BY}".encode().ljust(116) + path.read_bytes()[116:])


def _save_matlab73(path: Path, variable: str, value: np.ndarray) -> None:
    """An HDF5 file as MATLAB 7.3 writes it; `value` is (columns, rows), as HDF5 shows a matrix of MATLAB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        table = file.create_dataset(variable, data=value.astype(np.float64), track_times=False)
        table.attrs["MATLAB_class"] = np.bytes_("double")
    # Text, offset of subsystem data (none), version 2.0 and the mark of a little-endian writer.
    with path.open("r+b") as file:
        file.write(f"MATLAB 7.3 {_WRITTEN_BY}".encode().ljust(116) + bytes(8) + b"\x00\x02IM")


def _stem(pid: int) -> str:
    return "00-1" if pid == JUNK else f"{pid:04d}"


def _mars_name(walk: Walk, plan: Plan, number: int) -> str:
    stem = _stem(walk.pid)
    return f"bbox_{walk.split}/{stem}/{stem}C{walk.camera}T{walk.number:04d}F{number:03d}.jpg"


def _describe_mars(root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str]]) -> dict[str, int]:
    """Write the name lists and the .mat tables of MARS."""
    info = root / "info"
    info.mkdir()
    for split in ("train", "test"):
        mine = [(walk, names) for walk, names in zip(walks, drawn) if walk.split == split]
        ends = np.cumsum([len(names) for _, names in mine])
        rows = [(end - len(names) + 1, end, walk.pid, walk.camera) for end, (walk, names) in zip(ends, mine)]
        lines = [f"{Path(name).name}\n" for _, names in mine for name in names]
        (info / f"{split}_name.txt").write_text("".join(lines))
        _save_matlab5(info / f"tracks_{split}_info.mat", f"track_{split}_info", np.array(rows, np.int32))
    query = [row for row, (walk, _) in enumerate(mine, 1) if walk.is_query]
    _save_matlab5(info / "query_IDX.mat", "query_IDX", np.array([query], np.uint16))
    return count_walks(root, plan, walks, drawn)


def _lsvid_walks(plan: Plan) -> list[Walk]:
    return plan_tracklets(plan) + plan_validation(plan)


def _lsvid_prefix(walk: Walk) -> str:
    """What the names of all frames of this tracklet start with, and of no other."""
    stem = _stem(walk.pid)
    return f"tracklet_{walk.split}/{stem}/c{walk.camera:02d}_{walk.number:04d}/{stem}_"


def _lsvid_name(walk: Walk, plan: Plan, number: int) -> str:
    frame = first_frame(walk, plan) + number - 1
    return f"{_lsvid_prefix(walk)}{frame:06d}_{walk.camera:02d}_{walk.number:04d}.jpg"


def _describe_lsvid(
    root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str]], *, lists_in_info: bool
) -> dict[str, int]:
    """Write the tracklet lists and the tables of queries, in folders of their own or together in info/."""
    lists = root / ("info/list_sequence" if lists_in_info else "list_sequence")
    lists.mkdir(parents=True)
    for split in ("train", "test", "val"):
        mine = [walk for walk in walks if walk.split == split]
        lines = [f"{_lsvid_prefix(walk)} {walk.pid}\n" for walk in mine]
        (lists / f"list_seq_{split}.txt").write_text("".join(lines))
        if split != "train":
            tables = root / ("info/data" if lists_in_info else f"{split}/data")
            query = [row for row, walk in enumerate(mine, 1) if walk.is_query]
            _save_matlab73(tables / f"info_{split}.mat", "query", np.array([query]))
    return count_walks(root, plan, walks, drawn) | {"val_queries": len(query)}


def _ilids_walks(plan: Plan) -> list[Walk]:
    """The walks of all people past both cameras; the splits, not the plan, say who is trained on."""
    people = plan.train_ids + plan.test_ids
    if people % 2 or people > _MOST_ILIDS_PEOPLE:
        rule = f"must be even and at most {_MOST_ILIDS_PEOPLE} with --layout ilids, whose splits halve the people"
        raise InputError(f"train ids + test ids {rule}, not {people}")
    return plan_tracklets(plan)


def _ilids_name(walk: Walk, plan: Plan, number: int) -> str:
    # As in the real set some folder numbers are left out: here every fourth.
    person, frame = f"person{walk.pid + (walk.pid - 1) // 3:03d}", first_frame(walk, plan) + number - 1
    camera = f"cam{walk.camera}"
    return f"i-LIDS-VID/sequences/{camera}/{person}/{camera}_{person}_{frame:05d}.png"


def _describe_ilids(
    root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str]], *, tar: bool
) -> dict[str, int]:
    """Write the ten splits, each a permutation of the people, who are numbered from 1 in the order of their folders."""
    rng, people = generator(5, plan.seed), plan.train_ids + plan.test_ids
    splits = np.array([rng.permutation(people) + 1 for _ in range(_ILIDS_SPLITS)], np.uint16)
    _save_matlab5(root / "train-test people splits" / "train_test_splits_ilidsvid.mat", "ls_set", splits)
    if tar:
        _pack(root, root / "iLIDS-VID.tar")
    # Each half of a split holds half of the people, and each of them has a tracklet in both cameras.
    counts = {"train_tracklets": people, "test_tracklets": people, "queries": people // 2, "splits": _ILIDS_SPLITS}
    return counts | {"frames": sum(map(len, drawn))}


def _pack(root: Path, archive: Path) -> None:
    """Move what `root` holds into a tar file, whose bytes depend on names and contents alone."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    members, tops = sorted(root.rglob("*")), list(root.iterdir())
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as file:
        for path in members:
            file.add(path, path.relative_to(root).as_posix(), recursive=False, filter=plain)
    for top in tops:
        shutil.rmtree(top)


MARS = Layout(partial(draw_images, name=_mars_name), _describe_mars)
LSVID = Layout(partial(draw_images, name=_lsvid_name), _describe_lsvid, walks=_lsvid_walks)
ILIDS = Layout(
    partial(draw_images, name=_ilids_name),
    _describe_ilids,
    walks=_ilids_walks,
    lowest_pid=1,
    limits={"cameras": (2, 2), "tracklets": (1, 1)},
)

"""The public data sets' layouts that the synthetic walks can be written in: MARS, LS-VID and iLIDS-VID."""

from __future__ import annotations

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


def one_by_one(walks: Sequence[Walk]) -> list[list[Walk]]:
    """A piece of work for every walk."""
    return [[walk] for walk in walks]


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    draw(walks, plan, root) writes the pictures of some walks and returns per walk one item for each frame.
    describe(root, plan, walks, drawn, **options) writes the lists from these items of all walks; it returns the counts.
    """

    draw: Callable[..., list[list]]
    describe: Callable[..., dict[str, int]]
    walks: Callable[[Plan], list[Walk]] = plan_tracklets
    portions: Callable[[Sequence[Walk]], list[list[Walk]]] = one_by_one  # what is drawn by one process at a time
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # closer bounds of fields of Plan
    options: tuple[str, ...] = ()  # what the layout can be asked for beside the plan


def draw_images(walks: Sequence[Walk], plan: Plan, root: Path, name: Callable[[Walk, Plan, int], str]) -> list[list]:
    """Write every frame as an image at name(walk, plan, number from 1) below `root`; the names per walk."""
    drawn = []
    for walk in walks:
        frames = render(walk, plan)
        drawn.append([name(walk, plan, number) for number in range(1, len(frames) + 1)])
        for path, frame in zip(drawn[-1], frames):
            save_image(root / path, frame, walk.camera)
    return drawn


def save_image(path: Path, picture: np.ndarray, camera: int) -> None:
    """Write a uint8 (H, W, 3) picture, with the JPEG quality of the camera (from 1) where the name asks for JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=CAMERAS[camera - 1].quality)


def count_walks(walks: Sequence[Walk], drawn: Sequence[Sequence]) -> dict[str, int]:
    """Tracklets and frames of each split, and queries."""
    counts = {}
    for split in dict.fromkeys(walk.split for walk in walks):
        lengths = [len(frames) for walk, frames in zip(walks, drawn) if walk.split == split]
        counts |= {f"{split}_tracklets": len(lengths), f"{split}_frames": sum(lengths)}
    return counts | {"queries": sum(walk.is_query for walk in walks if walk.split == "test")}


def first_frame(walk: Walk, plan: Plan) -> int:
    """The number of a walk's first frame where a camera counts its frames on and on, 2 to 4999."""
    return int(generator(3, plan.seed, walk.pid, walk.camera, walk.number).integers(2, 5000))


def _save_matlab5(path: Path, variable: str, value: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: value})
    # The header names the hour of writing, which would differ between two equal runs.
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
    return count_walks(walks, drawn)


def _lsvid_walks(plan: Plan) -> list[Walk]:
    return plan_tracklets(plan) + plan_validation(plan)


def _lsvid_prefix(walk: Walk) -> str:
    """What all frame names of a tracklet start with, and no others."""
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
    return count_walks(walks, drawn) | {"val_queries": len(query)}


def _ilids_walks(plan: Plan) -> list[Walk]:
    """One walk of every person past both cameras; training and test people alike, as the splits are drawn anew."""
    people = plan.train_ids + plan.test_ids
    if people % 2 or people > _MOST_ILIDS_PEOPLE:
        rule = f"must be even and at most {_MOST_ILIDS_PEOPLE} with --layout ilids, whose splits halve the people"
        raise InputError(f"train ids + test ids {rule}, not {people}")
    return [walk for walk in plan_tracklets(plan) if walk.pid > 0]


def _ilids_name(walk: Walk, plan: Plan, number: int) -> str:
    # As in the real set some folder numbers are left out: here every fourth.
    person, frame = f"person{walk.pid + (walk.pid - 1) // 3:03d}", first_frame(walk, plan) + number - 1
    camera = f"cam{walk.camera}"
    return f"i-LIDS-VID/sequences/{camera}/{person}/{camera}_{person}_{frame:05d}.png"


def _describe_ilids(
    root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str]], *, tar: bool
) -> dict[str, int]:
    """Write the ten splits: a permutation of the people each, as positions (from 1) in the sorted folders."""
    rng, people = generator(5, plan.seed), plan.train_ids + plan.test_ids
    splits = np.array([rng.permutation(people) + 1 for _ in range(_ILIDS_SPLITS)], np.uint16)
    _save_matlab5(root / "train-test people splits" / "train_test_splits_ilidsvid.mat", "ls_set", splits)
    if tar:
        _pack(root, root / "iLIDS-VID.tar")
    # Either half of a split holds as many people, each with a tracklet per camera.
    counts = {"train_tracklets": people, "test_tracklets": people, "queries": people // 2, "splits": _ILIDS_SPLITS}
    return counts | {"frames": sum(map(len, drawn))}


def _pack(root: Path, archive: Path) -> None:
    """Move what `root` holds into a tar file, whose bytes follow from names and contents alone."""

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
LSVID = Layout(
    partial(draw_images, name=_lsvid_name), _describe_lsvid, walks=_lsvid_walks, options=("lists_in_info",)
)
ILIDS = Layout(
    partial(draw_images, name=_ilids_name),
    _describe_ilids,
    walks=_ilids_walks,
    limits={"cameras": (2, 2), "tracklets": (1, 1)},
    options=("tar",),
)

"""iLIDS-VID (Wang et al., ECCV 2014): person folders of two cameras and ten official splits -> tracklets."""

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.sets.archive import unpack_tar
from datasets.sets.find_root import folders_in, images_in, only_one, without_hyphens
from datasets.sets.matlab5 import read_matlab5
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, Tracklet, raise_or_warn
from utils.errors import InputError, MissingFileError

_CAMERAS = ("cam1", "cam2")
_SPLITS = tuple("0123456789")
_HALVES = ("last", "first")
_SPLIT_FILE = "train_test_splits_ilidsvid.mat"
_SPLIT_FOLDER = "train-test people splits"
_FOLDER_NAMES = ("i-LIDS-VID", "iLIDS-VID", "ilids-vid")
_ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz")
_HOW_TO_GET = (
    "iLIDS-VID is distributed by its authors (Wang et al., ECCV 2014) as iLIDS-VID.tar, which is read as it is too"
)


def parse_ilidsvid(
    root: str | Path,
    on_fault: OnFault = raise_or_warn,
    split: int | str = 0,
    train_half: str = "last",
    cache_dir: str | Path = "",
) -> RawSplits:
    """Read one of the ten splits of iLIDS-VID: 300 training, 150 query (cam1) and 150 gallery (cam2) tracklets.

    `root` is the folder that holds i-LIDS-VID/ and the folder of splits, its parent, i-LIDS-VID itself, or the tar
    archive or its folder; an archive is unpacked into `cache_dir` (empty: the user's cache). Training takes the
    `train_half` of the split's persons: 'last' as in the literature, 'first' as in the authors' release. Persons that
    are wrong go to `on_fault`, by default an InputError (a ValueError) naming the folder, and are left out. Raises
    MissingFileError (a FileNotFoundError) naming the first missing file, InputError for any other fault.
    """
    if str(split) not in _SPLITS:
        raise InputError(f"DATASETS.SPLIT {split!r} is not a split of iLIDS-VID; it must be one of 0 to 9")
    if train_half not in _HALVES:
        raise InputError(f"DATASETS.TRAIN_HALF {train_half!r} must be one of {', '.join(_HALVES)}")
    folder = _find_folder(Path(root), cache_dir)
    split_file = _find_split_file(folder)
    persons, seen_once = _persons(folder, on_fault)
    order = _split_table(split_file, len(persons), folder, seen_once)[int(split)]
    half = len(persons) // 2
    train_order = order[half:] if train_half == "last" else order[:half]
    numbers = set(train_order.tolist())
    train, test = [], []
    for number, tracklets in enumerate(persons, start=1):
        (train if number in numbers else test).extend(tracklets)
    return RawSplits(
        root=str(folder),
        train=train,
        query=[t for t in test if t.camid == 0],
        gallery=[t for t in test if t.camid == 1],
        cameras=("1", "2"),
        gallery_includes_query=False,
    )


def _find_folder(root: Path, cache_dir: str | Path) -> Path:
    """The folder that holds sequences/, unpacked from an archive where only that is there."""
    if os.path.isfile(root):
        return _unpacked(root, cache_dir)
    if not os.path.isdir(root):
        raise MissingFileError(
            f"DATASETS.ROOT_DIR {root} is neither a folder nor a tar file; set it to the folder of iLIDS-VID. "
            f"{_HOW_TO_GET}"
        )
    if folder := _folder_with_sequences(root):
        return folder
    if archive := _find_archive(root):
        return _unpacked(archive, cache_dir)
    raise MissingFileError(
        f"{root / 'i-LIDS-VID' / 'sequences'} is missing (looked in {root} for sequences/cam1 and cam2 in i-LIDS-VID, "
        f"and for {', '.join(f'*{ending}' for ending in _ARCHIVE_ENDINGS)}). {_HOW_TO_GET}"
    )


def _folder_with_sequences(root: Path) -> Path | None:
    """`root` or the nearest folder in it, up to three deep, that holds sequences/cam1 or sequences/cam2."""
    children = folders_in(root)
    nested = [child / name for child in children for name in _FOLDER_NAMES]
    deeper = [path / name for path in nested for name in _FOLDER_NAMES]
    for places in ([root], children, nested, deeper):
        found = [path for path in places if any(os.path.isdir(path / "sequences" / camera) for camera in _CAMERAS)]
        # On a file system that ignores upper and lower case, several spellings find the same folder (inode, device).
        found = sorted({os.stat(path)[1:3]: path for path in reversed(found)}.values())
        if found:
            return only_one(found, "iLIDS-VID", root)
    return None


def _find_archive(root: Path) -> Path | None:
    """The tar archive of iLIDS-VID in `root`, in its raw/ (as the authors release it), or in a folder named like it."""
    homes = [root, *(child for child in folders_in(root) if "ilids" in without_hyphens(child.name))]
    for home in homes:
        found = [path for folder in (home, home / "raw") for path in _archives_in(folder)]
        named = [path for path in found if "ilids" in without_hyphens(path.name)]
        best = named or found
        if len(best) > 1:
            names = ", ".join(str(path.relative_to(root)) for path in best)
            raise InputError(f"DATASETS.ROOT_DIR {root} holds several archives: {names}; name the one of iLIDS-VID")
        if best:
            return best[0]
    return None


def _archives_in(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    paths = [folder / name for name in names if name.lower().endswith(_ARCHIVE_ENDINGS) and name[0] != "."]
    return [path for path in paths if os.path.isfile(path)]


def _unpacked(archive: Path, cache_dir: str | Path) -> Path:
    def is_wanted(name: str) -> bool:  # frames and the splits, not single images and optical flow
        return "/sequences/cam" in f"/{name}" or posixpath.basename(name) == _SPLIT_FILE

    folder = unpack_tar(archive, cache_dir, is_wanted)
    if found := _folder_with_sequences(folder):
        return found
    raise InputError(f"{archive} (unpacked into {folder}) holds no i-LIDS-VID/sequences/cam1 and cam2")


def _find_split_file(folder: Path) -> Path:
    """The file of splits beside the folder of iLIDS-VID or in it."""
    beside = Path(os.path.abspath(folder)).parent
    places = [home / _SPLIT_FOLDER / _SPLIT_FILE for home in (folder, beside)]
    places += [home / _SPLIT_FILE for home in (folder, beside)]
    for path in places:
        if os.path.exists(path):
            return path
    raise MissingFileError(f"{places[1]} is missing (looked beside {folder} and in it). {_HOW_TO_GET}")


def _persons(folder: Path, on_fault: OnFault) -> tuple[list[Sequence[Tracklet]], list[str]]:
    """(tracklets of each person, messages on persons that one camera has not seen).

    Persons that both cameras have seen are sorted by the name of their folder; each has a tracklet of cam1 and one of
    cam2, or none if it is at fault.
    """
    numbers = [_person_numbers(folder / "sequences" / camera) for camera in _CAMERAS]
    persons: list[Sequence[Tracklet]] = []
    seen_once: list[str] = []
    for name in sorted(numbers[0].keys() | numbers[1].keys()):
        frames = [_frames(folder, camera, name) for camera in _CAMERAS]
        missing = [camera for camera, seen in zip(_CAMERAS, numbers) if name not in seen]
        empty = [camera for camera, part in zip(_CAMERAS, frames) if not part]
        if missing:
            seen_once.append(f"{name} is missing in {missing[0]}")
            problem = "is missing: every person is seen by both cameras"
        elif empty:
            problem = "holds no image"
            persons.append(())  # the splits still count this person
        else:
            pid = numbers[0][name]
            persons.append([Tracklet(part, pid, camid) for camid, part in enumerate(frames)])
            continue
        path = folder / "sequences" / (missing or empty)[0] / name
        on_fault(Fault(f"{path} {problem}", sum(frames, ()), str(folder)))
    return persons, seen_once


def _person_numbers(folder: Path) -> dict[str, int]:
    """Name of each person folder -> number of the person."""
    if not os.path.isdir(folder):
        raise MissingFileError(f"{folder} is missing. {_HOW_TO_GET}")
    numbers: dict[str, int] = {}
    for path in folders_in(folder):
        match = re.fullmatch(r"person([0-9]{1,9})", path.name)
        if not match:
            continue
        number = int(match[1])
        if number in numbers.values():
            raise InputError(f"{path} is a second folder of person {number}; every person has one")
        numbers[path.name] = number
    return numbers


def _frames(folder: Path, camera: str, name: str) -> tuple[str, ...]:
    path = str(folder / "sequences" / camera / name)
    return tuple(f"{path}{os.sep}{image}" for image in images_in(path))


def _split_table(path: Path, count: int, folder: Path, seen_once: Sequence[str]) -> np.ndarray:
    """(10, count) int64: each row a permutation of 1..count, numbering the person folders in the order of names."""
    table = read_matlab5(path, "ls_set")
    if table.ndim != 2 or table.shape[0] != len(_SPLITS) or not table.shape[1]:
        raise InputError(f"{path}: ls_set needs {len(_SPLITS)} rows, one per split, has shape {table.shape}")
    size = table.shape[1]
    for number, row in enumerate(table, start=1):
        # Comparing sorted rows finds NaN and fractions too.
        if not np.array_equal(np.sort(row), np.arange(1, size + 1)):
            raise InputError(f"{path}: ls_set row {number} is not a permutation of 1..{size}")
    if size % 2:
        raise InputError(f"{path}: ls_set splits {size} persons, which has no halves; an even number is expected")
    if size != count:
        rest = f" and {len(seen_once) - 3} more" if len(seen_once) > 3 else ""
        names = f" ({', '.join(seen_once[:3])}{rest})" if seen_once else ""
        raise InputError(
            f"{path}: ls_set splits {size} persons, but {folder / 'sequences'} has {count} seen by both cameras{names}"
        )
    return table.astype(np.int64)


ILIDSVID = DataSet(
    name="iLIDS-VID",
    parse=parse_ilidsvid,
    short_name="iLIDS",
    official={"train": (150, 300), "query": (150, 150), "gallery": (150, 150)},
    official_test=(150, 150),
    paper={"rank1": 94.5, "rank5": 99.1},
    num_splits=len(_SPLITS),
    train_items="windows 8 4",
    spare=("images",),
)

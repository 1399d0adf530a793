"""The user's own crops in folders: split/person/camera_tracklet/frames -> tracklets."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from datasets.own.names import SPLITS, NamedTracklet, natural_key, number_tracklets
from datasets.sets.find_root import find_root
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, raise_or_warn
from utils.errors import InputError, printable

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_TRACKLET = "<person>/<camera>_<tracklet>"
_LAYOUT = f"Expected are train/{_TRACKLET}/, query/{_TRACKLET}/ and gallery/{_TRACKLET}/ with the frames as images"


class UnusableError(Exception):
    """Why a folder is left out; the message continues a sentence that begins with its path."""


def parse_folder(root: str | Path, on_fault: OnFault = raise_or_warn) -> RawSplits:
    """Read root/train|query|gallery/<person>/<camera>_<tracklet>/ with frames in natural order (2.jpg before 10.jpg).

    `root` is the folder that holds the three, or its parent. The camera is what stands before the last underscore of
    a tracklet folder's name; where no name has an underscore, the data name no cameras. Hidden entries and files
    other than jpg, jpeg, png, bmp and webp are ignored. Nothing is written. Empty folders, and names without a camera
    where others have one, go to `on_fault`, by default an InputError naming the folder, and are left out. Raises
    MissingFileError naming a split folder that is missing, InputError for a split that cannot be read.
    """
    folder, _ = find_root(Path(root), "your own data", [SPLITS], _LAYOUT)
    base = str(folder)
    seen = [tracklet for split in SPLITS for tracklet in _tracklets(base, split, on_fault)]
    if any("_" in os.path.basename(os.path.dirname(tracklet.frames[0])) for tracklet in seen):
        for tracklet in seen:
            if not tracklet.camera:
                path = os.path.dirname(tracklet.frames[0])
                message = f"{path} names no camera although others do: rename it to <camera>_<tracklet>"
                on_fault(Fault(printable(message), tracklet.frames, base, tracklet.split))
        seen = [tracklet for tracklet in seen if tracklet.camera]
    return number_tracklets(base, seen)


def _tracklets(root: str, split: str, on_fault: OnFault) -> Iterator[NamedTracklet]:
    """The tracklet folders of one split, sorted by person and name; faulty ones are reported and left out."""

    def try_to_list(function: Callable, entry: os.DirEntry) -> Sequence:
        try:
            return function(entry)
        except UnusableError as error:
            problem = str(error)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        on_fault(Fault(printable(f"{entry.path} {problem}"), root=root, split=split))
        return ()

    folder = os.path.join(root, split)
    try:
        persons = folders_in(folder)
    except OSError as error:
        raise InputError(f"{printable(folder)} cannot be read ({error.strerror}). {_LAYOUT}") from None
    for person in persons:
        for tracklet in try_to_list(_tracklet_folders, person):
            frames = try_to_list(lambda entry: frames_in(entry.path), tracklet)
            if frames:
                yield NamedTracklet(split, person.name, tracklet.name.rpartition("_")[0], frames)


def _tracklet_folders(person: os.DirEntry) -> list[os.DirEntry]:
    folders = folders_in(person.path)
    if not folders:
        raise UnusableError("holds no tracklet folder: put its frames into folders <camera>_<tracklet>, or delete it")
    return folders


def frames_in(folder: str) -> tuple[str, ...]:
    """Paths of the images in a folder in natural order; raises UnusableError or OSError where there is none."""
    entries = [e for e in _entries(folder) if e.name.lower().endswith(_IMAGES) and not e.is_dir()]
    if not entries:
        raise UnusableError(f"holds no image ({', '.join(_IMAGES)}): add its frames, or delete it")
    frames = tuple(entry.path for entry in entries)
    try:
        "".join(frames).encode()
    except UnicodeEncodeError:
        raise UnusableError("or a frame in it has a name that is not UTF-8: rename it") from None
    return frames


def folders_in(folder: str) -> list[os.DirEntry]:
    """The folders in a folder in natural order, without hidden ones."""
    # A broken link counts as a folder, so that it is reported and not silently left out.
    return [e for e in _entries(folder) if os.path.isdir(e.path) or not os.path.exists(e.path)]


def _entries(folder: str) -> list[os.DirEntry]:
    """The entries of `folder` in natural order, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: natural_key(e.name))


FOLDER = DataSet(name="folder", parse=parse_folder, spare=())

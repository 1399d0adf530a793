"""Tracklets of the user's own that need no part in a training or test: to compute features of, or to search with."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.own.folder import UnusableError, folders_in, frames_in
from datasets.own.manifest import read_listed_tracklets
from datasets.own.names import NamedTracklet, natural_key
from utils.errors import InputError, MissingFileError, printable

_MOST_LEVELS = 3  # train/<person>/<camera>_<tracklet>
LAYOUTS = ("its frames", "<tracklet>/", "<person>/<camera>_<tracklet>/", "<split>/<person>/<camera>_<tracklet>/")


def read_tracklets(path: str | Path, cache_dir: str = "", outside: str = "refuse") -> tuple[str, list[NamedTracklet]]:
    """(what was found, in words; tracklets, at least one) of a folder or of a CSV file.

    A folder that holds frames is one tracklet; otherwise all folders that hold frames lie equally deep below it, and
    the depth says what their names mean: see LAYOUTS. The camera is what stands before the last underscore of the
    tracklet folder's name. A CSV file has the columns of a manifest, or with a column video those of a table of videos;
    split, person and camera may be missing (see `read_listed_tracklets`). Raises MissingFileError or InputError.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; expected is a folder of frames or of tracklets, or a CSV file")
    tracklets = read_listed_tracklets(path, cache_dir, outside)
    return f"in {path}: {_count(tracklets)}", tracklets


def _read_folder(root: Path) -> tuple[str, list[NamedTracklet]]:
    """All tracklets in or below a folder."""
    found = list(_tracklets(root, ()))
    depth = len(found[0][0])
    for parts, frames in found:
        if len(parts) != depth:
            first, other = (os.path.dirname(frames[0]) for frames in (found[0][1], frames))
            raise InputError(f"{root}: the frames in {printable(other)} lie deeper or less deep than those in {first}")
    has_cameras = depth > 1 and any("_" in parts[-1] for parts, _ in found)
    tracklets = []
    for parts, frames in found:
        camera = parts[-1].rpartition("_")[0] if has_cameras else ""
        if has_cameras and not camera:
            folder = printable(os.path.dirname(frames[0]))
            raise InputError(f"{folder} names no camera although others do: rename it to <camera>_<tracklet>")
        person = parts[-2] if depth > 1 else ""
        tracklets.append(NamedTracklet("", person, camera, frames, "/".join(parts) or root.resolve().name))
    return f"in {root}, read as {LAYOUTS[depth]}: {_count(tracklets)}", tracklets


def _tracklets(folder: Path, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(names of the folders below the input, frames) of each tracklet at or below `folder`, in natural order."""
    try:
        inner = folders_in(str(folder))
        try:
            frames = frames_in(str(folder))
        except UnusableError:
            if not inner:
                raise
            frames = ()
    except UnusableError as problem:
        raise InputError(f"{folder} {problem}") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from None
    if frames and inner:
        raise InputError(
            f"{folder} holds both frames and folders, such as {inner[0].name}: a tracklet's folder has none"
        )
    if frames:
        yield parts, frames
    if inner and len(parts) == _MOST_LEVELS:
        raise InputError(f"{folder} holds folders, such as {inner[0].name}, but the deepest layout is {LAYOUTS[-1]}")
    for entry in inner:
        yield from _tracklets(Path(entry.path), (*parts, entry.name))


def _count(tracklets: Sequence[NamedTracklet]) -> str:
    """'3 tracklets, 24 frames, 2 persons, cameras 1, 2'."""
    persons = {t.person for t in tracklets} - {""}
    cameras = sorted({t.camera for t in tracklets} - {""}, key=natural_key)
    counts = {"tracklets": len(tracklets), "frames": sum(len(t.frames) for t in tracklets), "persons": len(persons)}
    words = [f"{number:,} {name if number != 1 else name[:-1]}" for name, number in counts.items() if number]
    shown = ", ".join(cameras[:10]) + (f" and {len(cameras) - 10} more" if len(cameras) > 10 else "")
    return ", ".join([*words, f"cameras {shown}" if cameras else "no cameras named"])

"""What lies in the image folders of a data set beside the frames that its lists name."""

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


class ImageFolders(NamedTuple):
    """The folders right below the root that frames lie in, read to their bottom."""

    bare: set[str]  # absolute paths of folders that hold no file or do not exist although frames are named there
    stray: set[str]  # absolute paths of other folders that hold no file; of both kinds without those inside of them
    unnamed: dict[str, list[str]]  # absolute path of an image folder -> its image files that no list names


def scan_folders(root: str, named: Collection[str]) -> ImageFolders:
    """Look for empty folders and for images that are not among the frame paths `named`; nothing is opened.

    Only folders right below the root that frames lie in are looked into, whatever lies beside it.
    """
    root = os.path.abspath(root)
    prefix = root.rstrip(os.sep) + os.sep
    absolute = _absolute(named)
    homes = {folder for folder in map(os.path.dirname, absolute) if folder.startswith(prefix)}
    tops = sorted({prefix + folder[len(prefix) :].split(os.sep)[0] for folder in homes})
    needed = {above for home in homes for above in _upwards(home, prefix)}
    found, filled = set(), set()
    unnamed: dict[str, list[str]] = {}
    for top in tops:
        strangers = []
        for folder, files in _walk(top):
            if not os.path.basename(folder).startswith("."):
                found.add(folder)
            if files:
                filled.update(_upwards(folder, prefix))
            paths = (folder + os.sep + name for name in files if name.lower().endswith(_SUFFIXES))
            strangers += [path for path in paths if path not in absolute]
        unnamed[top] = strangers
    empty = (needed | found) - filled
    topmost = {folder for folder in empty if os.path.dirname(folder) not in empty}
    return ImageFolders(topmost & needed, topmost - needed, unnamed)


def unused_images(root: str, named: Collection[str], spare: Collection[str]) -> list[str]:
    """Images below the root, as paths below it, that are not among the frame paths `named`.

    Folders right below the root that `spare` names and hidden files and folders do not count.
    """
    root = os.path.abspath(root)
    prefix = root.rstrip(os.sep) + os.sep
    absolute = _absolute(named)
    unused = []
    for folder, files in _walk(root):
        inside = (folder.rstrip(os.sep) + os.sep)[len(prefix) :]
        parts = inside.split(os.sep)
        if parts[0] in spare or any(part.startswith(".") for part in parts):
            continue
        names = (name for name in files if name.lower().endswith(_SUFFIXES) and not name.startswith("."))
        unused += [inside + name for name in names if prefix + inside + name not in absolute]
    return sorted(unused)


def _absolute(paths: Collection[str]) -> set[str]:
    """The paths from the root of the file system on, without '..'."""
    parts = [os.path.split(path) for path in paths]
    folders = {folder: os.path.abspath(folder) for folder in {folder for folder, _ in parts}}
    return {os.path.join(folders[folder], name) for folder, name in parts}


def _upwards(folder: str, prefix: str) -> Iterator[str]:
    """`folder` and the folders around it that lie below `prefix`."""
    while folder.startswith(prefix) and len(folder) > len(prefix):
        yield folder
        folder = os.path.dirname(folder)


def _walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its files, behind links too; one that may not be read has a nameless one."""
    closed: list[str] = []

    def remember(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            closed.append(error.filename)

    for folder, inner, files in os.walk(top, onerror=remember, followlinks=True):
        inner[:] = [name for name in inner if not _leads_back(folder, name)]
        yield folder, sorted(files)
    yield from ((folder, [""]) for folder in closed)


def _leads_back(folder: str, name: str) -> bool:
    """Whether `name` in `folder` is a link to a folder around it, where a walk would never end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and (os.path.realpath(folder) + os.sep).startswith(os.path.realpath(path) + os.sep)

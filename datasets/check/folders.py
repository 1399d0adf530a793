"""What lies in the image folders of a data set beside the frames that its lists name."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


class ImageFolders(NamedTuple):
    """What a look into the image folders found; paths are absolute, and of nested empty folders only the topmost."""

    empty_named: set[str]  # the lists name frames in them, but they hold no file or do not exist
    empty_other: set[str]  # other folders that hold no file
    unlisted: dict[str, list[str]]  # image folder right below the root -> its image files that no list names


def scan_folders(root: str, named: Collection[str]) -> ImageFolders:
    """Look for empty folders and for images that are not among the frame paths `named`; nothing is opened.

    The image folders are those right below the root that frames lie in; other folders are not looked into.
    """
    root = os.path.abspath(root)
    prefix = root.rstrip(os.sep) + os.sep
    absolute = _absolute(named)
    homes = {folder for folder in map(os.path.dirname, absolute) if folder.startswith(prefix)}
    needed = {folder for home in homes for folder in _up_to(prefix, home)}
    found, filled = set(), set()
    unlisted: dict[str, list[str]] = {}
    for top in sorted({prefix + home[len(prefix) :].split(os.sep)[0] for home in homes}):
        unlisted[top] = []
        for folder, files in _walk(top):
            if not os.path.basename(folder).startswith("."):
                found.add(folder)
            if files:
                filled.update(_up_to(prefix, folder))
            unlisted[top] += [path for path in _image_paths(folder, files) if path not in absolute]
    empty = (needed | found) - filled
    topmost = {folder for folder in empty if os.path.dirname(folder) not in empty}
    return ImageFolders(topmost & needed, topmost - needed, unlisted)


def unused_images(root: str, named: Collection[str], spare: Collection[str]) -> list[str]:
    """Images below the root, as paths below it, that are not among the frame paths `named`.

    Folders right below the root that `spare` names and hidden files and folders do not count.
    """
    root = os.path.abspath(root)
    absolute = _absolute(named)
    unused = []
    for folder, files in _walk(root):
        parts = Path(folder).relative_to(root).parts
        if not any(part.startswith(".") for part in parts) and not set(parts[:1]) & set(spare):
            unused += [path for path in _image_paths(folder, files) if path not in absolute]
    return sorted(os.path.relpath(path, root) for path in unused if not os.path.basename(path).startswith("."))


def _absolute(paths: Collection[str]) -> set[str]:
    """The paths from the root of the file system on, without '..'; each folder is resolved once."""
    parts = [os.path.split(path) for path in paths]
    folders = {folder: os.path.abspath(folder) for folder in {folder for folder, _ in parts}}
    return {os.path.join(folders[folder], name) for folder, name in parts}


def _image_paths(folder: str, files: Collection[str]) -> list[str]:
    return [folder + os.sep + name for name in files if name.lower().endswith(_SUFFIXES)]


def _up_to(prefix: str, folder: str) -> Iterator[str]:
    """`folder` and the folders around it that lie below `prefix`."""
    while folder.startswith(prefix) and len(folder) > len(prefix):
        yield folder
        folder = os.path.dirname(folder)


def _walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its files, links followed; an unreadable folder counts as holding a file ''."""
    unreadable: list[str] = []

    def remember(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            unreadable.append(error.filename)

    for folder, inner, files in os.walk(top, onerror=remember, followlinks=True):
        inner[:] = [name for name in inner if not _leads_back(folder, name)]
        yield folder, sorted(files)
    yield from ((folder, [""]) for folder in unreadable)


def _leads_back(folder: str, name: str) -> bool:
    """Whether `name` in `folder` is a link to a folder around it, where a walk would never end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and (os.path.realpath(folder) + os.sep).startswith(os.path.realpath(path) + os.sep)

"""What the parsers look for on the disk: the folder of a data set, folders, images and lists in it."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from datasets.regular import read_regular
from utils.errors import InputError, MissingFileError

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")


def find_root(root: Path, name: str, layouts: Sequence[Sequence[str]], how_to_get: str) -> tuple[Path, int]:
    """The folder of the data set `name`, which is `root` or a folder in it, and the index of its layout.

    A layout lists the files and folders that the set must have, relative to its folder. Raises MissingFileError naming
    the first missing one and all that were looked for, InputError when `root` cannot be read or holds several sets.
    """
    if not os.path.isdir(root):
        raise MissingFileError(
            f"DATASETS.ROOT_DIR {root} is not a folder; set it to the folder of {name}. {how_to_get}"
        )
    candidates = [root, *folders_in(root)]
    found = [path for path in candidates if any(present(path, layout) for layout in layouts)]
    best = root if root in found or not found else only_one(found, name, root)
    return best, best_layout(best, layouts, how_to_get, looked_in=root)


def best_layout(folder: Path, layouts: Sequence[Sequence[str]], how_to_get: str, looked_in: Path) -> int:
    """The index of the layout of which `folder` has most; raises MissingFileError naming the first missing file."""
    index, layout = max(enumerate(layouts), key=lambda numbered: len(present(folder, numbered[1])))
    for file in layout:
        if not os.path.exists(folder / file):
            looked = "; or ".join(", ".join(names) for names in layouts)
            raise MissingFileError(f"{folder / file} is missing (looked in {looked_in} for {looked}). {how_to_get}")
    return index


def only_one(found: Sequence[Path], name: str, root: Path) -> Path:
    """The only folder of `found`, or the only one called like the data set `name`; raises InputError naming them."""
    named = [path for path in found if without_hyphens(path.name) == without_hyphens(name)]
    best = found if len(found) == 1 else named
    if len(best) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise InputError(f"DATASETS.ROOT_DIR {root} holds several sets: {names}; name one")
    return best[0]


def present(folder: Path, files: Sequence[str]) -> list[str]:
    """Those of `files` that `folder` has."""
    # In a folder that may not be entered, such as lost+found, Path.exists raises and os.path.exists is False.
    return [file for file in files if os.path.exists(folder / file)]


def without_hyphens(name: str) -> str:
    """`name` in lower case without hyphens, underscores and spaces: iLIDS-VID -> ilidsvid."""
    return re.sub(r"[-_ ]", "", name).lower()


def folders_in(root: Path) -> list[Path]:
    """The folders in `root`, sorted by name, without hidden ones; raises InputError when it cannot be read."""
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror})") from None
    return [root / name for name in names]


def read_lines(path: Path, content: str) -> list[str]:
    """The lines of a list without spaces at their ends, up to the last that is not blank.

    Raises InputError naming the list and its `content`, such as 'images'.
    """
    try:
        text = io.StringIO(read_regular(path).decode("utf-8-sig"), newline=None).read().rstrip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as a list of {content} ({reason})") from None
    return [line.rstrip() for line in text.split("\n")] if text else []


def is_below(path: str) -> bool:
    """Whether `path`, out of a list and with forward slashes, stays below the folder that it is relative to."""
    return bool(path) and not path.startswith("/") and ".." not in path.split("/") and "\0" not in path


def images_in(folder: str) -> list[str]:
    """Names of the images in `folder`, sorted, without hidden ones; none where there is no such folder.

    Raises InputError when it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(_IMAGE_ENDINGS) and entry.name[0] != "." and not entry.is_dir()
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a path
        raise InputError(f"folder {folder!r} cannot be read ({error})") from None

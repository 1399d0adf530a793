"""Small tar archives, good and hostile ones, and what is unpacked from them."""

import io
import tarfile
from pathlib import Path

import pytest

from datasets.sets.archive import unpack_tar
from datasets.sets.cache_folder import RECORD
from utils.errors import InputError

GOOD = (("set/a.png", b"first"), ("set/deep/b.png", b"second"), ("set/notes.txt", b"no image"))


def is_image(name: str) -> bool:
    return name.endswith(".png")


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o777
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_tar(path: Path, files=GOOD, extra=(), mode: str = "w") -> Path:
    """`files` are (name, content), `extra` members without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def listing(folder: Path) -> dict[str, bytes]:
    """The unpacked files."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name != RECORD}


def refused(path: Path, cache: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        unpack_tar(path, cache, is_image)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())

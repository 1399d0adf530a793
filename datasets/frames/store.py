"""A pack: all frames of a data set in one LMDB file, as datasets.pack writes it.

Each frame is a record: its path below the data set's folder -> CRC-32 of the rest, bytes of the image file, the file,
zeros up to half a page (so that LMDB gives it pages of its own). One more record describes the pack. LMDB trusts its
index, and a damaged one would crash Python; so a hash of the index ends the file and is compared before LMDB opens it.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import lmdb

from datasets.frames.reader import FILES, FrameSource
from datasets.regular import check_regular
from datasets.tracklet import below
from utils.errors import InputError, MissingFileError

_ABOUT, _FORMAT = b"\0pack", 2  # key of the record on the pack (no path begins so); format 1 was no LMDB file
_OLD_MAGIC = b"TFCLIPFR"
_MAX_KEY, _HASH_BYTES = 511, 16
_META = struct.Struct("<16x2I16xI84x3Q")  # of LMDB's first two pages: magic, version, page size, root, last page, age
_STEP = 2**24  # bytes of a transaction, and by which the map grows at least


class FrameStore:
    """A pack as the source of the frames below the folder `root`; `digest` (hex) names its frames and their bytes."""

    def __init__(self, path: str, root: str = "") -> None:
        """Check all but the frames; raises MissingFileError / InputError naming the file."""
        self.path = path
        self.root = root
        try:
            self._file = os.path.realpath(path), *_state(path)
            with open(path, "rb") as file:
                if file.read(len(_OLD_MAGIC)) == _OLD_MAGIC:
                    raise self._fault("has an old format")
                if _index_hash(file) != file.read(_HASH_BYTES + 1):
                    raise lmdb.CorruptedError
        except (lmdb.Error, struct.error):
            raise self._fault("is no pack, or was cut or altered") from None
        except FileNotFoundError:
            raise MissingFileError(f"pack {path} does not exist; write it with python -m datasets.pack") from None
        except OSError as error:
            raise self._fault(f"cannot be opened ({error.strerror})") from None
        _transaction.cache_clear()  # closes a file that was overwritten in place, so that LMDB opens it anew
        about = json.loads(self._record(_ABOUT) or b"{}")
        if about.get("format") != _FORMAT:
            raise self._fault(f"has format {about.get('format')}, this code reads {_FORMAT}")
        self._count, self.digest = about["frames"], about["digest"]

    def _fault(self, problem: str) -> InputError:
        return InputError(f"pack {self.path} {problem}; write it again: python -m datasets.pack --out FILE --overwrite")

    def __reduce__(self) -> tuple:
        return FrameStore, (self.path, self.root)  # another process opens the file itself

    def __len__(self) -> int:
        return self._count

    def content(self, path: str) -> memoryview:
        """The bytes of the frame; raises InputError when the pack lacks it or its bytes were altered."""
        name = below(self.root, path)
        value = self._record(frame_key(name))
        if value is None:
            raise self._fault(f"does not hold frame {name}, so it is of other lists or of another data set")
        content = _content(value)
        if content is None:
            raise self._fault(f"holds frame {name} with altered bytes")
        return content

    def frames(self) -> Iterator[tuple[bytes, memoryview | None]]:
        """(key, bytes) of each frame in the order of the keys; None for bytes that were altered."""
        for key in list(self._begin().cursor().iternext(values=False)):
            if key != _ABOUT:
                yield key, _content(self._record(key) or b"")

    def _begin(self) -> lmdb.Transaction:
        try:
            return _transaction(*self._file)
        except (OSError, lmdb.Error) as error:
            raise self._fault(f"cannot be opened ({error})") from None

    def _record(self, key: bytes) -> bytes | None:
        """The value of a key; None where there is none, empty where LMDB finds it damaged."""
        transaction = self._begin()
        try:
            return transaction.get(key)
        except lmdb.Error:
            _transaction.cache_clear()  # after an error this one cannot be used again
            return b""


@lru_cache(maxsize=8)
def _transaction(path: str, *state: int) -> lmdb.Transaction:
    """Reads a file, for all stores of it: a process may open it only once. Raises OSError or lmdb.Error."""
    if _state(path) != state:
        raise OSError("it was replaced while it was in use")
    options = {"subdir": False, "readonly": True, "lock": False, "meminit": False}
    return lmdb.open(path, create=False, **options).begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_transaction.cache_clear)  # LMDB's files must not be open across a fork


def frame_source(pack: str, root: str) -> FrameSource:
    """Where the frames of the data set in `root` are read from: the file `pack`, or their own files when it is ''."""
    return FrameStore(pack, root) if pack else FILES


def frame_key(name: str) -> bytes:
    """The name in UTF-8; of one that is too long for LMDB, its first 479 bytes and 32 letters of its BLAKE2b."""
    key = name.encode("utf-8", "surrogateescape")
    return key if len(key) <= _MAX_KEY else key[: _MAX_KEY - 32] + blake2b(key, digest_size=16).hexdigest().encode()


def write_store(path: Path, frames: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) of frames, sorted by `frame_key`, to a new file; raises OSError when it cannot be written."""
    count, digest = 0, blake2b(digest_size=16)
    try:
        with lmdb.open(str(path), subdir=False, lock=False, sync=False, map_size=_STEP) as env:
            half_page = env.stat()["psize"] // 2
            batch, batch_bytes = [], 0
            for name, content in frames:
                batch.append((frame_key(name), _value(content, half_page)))
                digest.update(b"%b\0%d\0%b" % (batch[-1][0], len(content), content))
                count, batch_bytes = count + 1, batch_bytes + len(batch[-1][1])
                if batch_bytes >= _STEP:
                    _put(env, batch, append=True)
                    batch, batch_bytes = [], 0
            _put(env, batch, append=True)
            about = {"format": _FORMAT, "frames": count, "digest": digest.hexdigest()}
            _put(env, [(_ABOUT, json.dumps(about).encode())], append=False)
            env.sync(True)
        with path.open("r+b") as file:
            index_hash = _index_hash(file)
            file.truncate()
            file.write(index_hash)
    except lmdb.Error as error:
        raise OSError(f"{error}; is the disk full?") from None


def _put(env: lmdb.Environment, records: list[tuple[bytes, bytes]], append: bool) -> None:
    """Write records in one transaction, into a map that grows as far as they need."""
    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in records:
                    if not transaction.put(key, value, append=append):
                        raise ValueError(f"frame {key!r} comes twice or out of order")
                return
        except lmdb.MapFullError:
            env.set_mapsize(env.info()["map_size"] + max(_STEP, 2 * sum(len(value) for _, value in records)))


def _value(content: bytes, least: int) -> bytes:
    rest = struct.pack("<I", len(content)) + content.ljust(least, b"\0")
    return struct.pack("<I", zlib.crc32(rest)) + rest


def _content(value: bytes) -> memoryview | None:
    """The image file in a frame's value, or None where the checksum is another."""
    view = memoryview(value)
    if len(view) < 8 or int.from_bytes(view[:4], "little") != zlib.crc32(view[4:]):
        return None
    return view[8 : 8 + int.from_bytes(view[4:8], "little")]


def _index_hash(file: BinaryIO) -> bytes:
    """Hash of LMDB's two meta pages and its search tree, read without LMDB; leaves `file` at the end of its last page.

    Raises lmdb.Error or struct.error for what cannot be read so.
    """
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    _, version, page_bytes, *_ = _META.unpack(file.read(_META.size))
    if version != 1 or not 512 <= page_bytes <= 2**16:
        raise lmdb.VersionMismatchError(f"LMDB's data version is {version}, not 1")
    index_hash = blake2b(digest_size=_HASH_BYTES)

    def page(number: int) -> bytes:
        if (number + 1) * page_bytes > file_bytes:
            raise lmdb.CorruptedError(f"there is no page {number}")
        file.seek(number * page_bytes)
        return file.read(page_bytes)

    *_, root, last, _ = max((_META.unpack_from(page(number)) for number in (0, 1)), key=itemgetter(-1))
    index = [0, 1, root]
    for number in index:  # which grows on the way
        content = page(number)
        index_hash.update(content)
        if content[10] & 1:  # a branch: from byte 16 on stand the places of its nodes, as many as byte 12 tells
            places = struct.unpack_from(f"<{(int.from_bytes(content[12:14], 'little') - 16) // 2}H", content, 16)
            nodes = [struct.unpack_from("<3H", content, place) for place in places]
            index += [low | middle << 16 | high << 32 for low, middle, high in nodes]
        if len(index) > last + 1:
            raise lmdb.CorruptedError("the tree is larger than the file")
    page(last)
    return index_hash.digest()


def _state(path: str) -> tuple[int, int]:
    state = check_regular(path)
    return state.st_size, state.st_mtime_ns

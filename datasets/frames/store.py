"""All frames of a data set in one file, as datasets.pack writes it.

The file, all numbers little-endian:
- 64 bytes: magic b'TFCLIPFR', version (uint32, 1), 4 zero bytes, number of frames n (uint64), place of the index
  (uint64), bytes of all names (uint64), BLAKE2b-128 of these five fields, the index and the names, 8 zero bytes;
- the frames: the very bytes of the image files, one after the other;
- zeros up to a multiple of 8, then the index, sorted by the BLAKE2b-128 of the names, in columns of n entries: first
  half of that hash (uint64), second half (uint64), place of the frame (uint64), its bytes (uint32), CRC-32 (uint32);
- the names in the order of the index, each a path below the data set's folder in UTF-8 and a zero byte.

The index is memory-mapped and searched as it lies: a million frames open in a fraction of a second, and processes share
its memory.
"""

import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np

from datasets.frames.reader import FILES, FrameSource
from datasets.tracklet import below
from utils.errors import InputError, MissingFileError

_MAGIC, _VERSION = b"TFCLIPFR", 1
_HEADER = struct.Struct("<8sIIQQQ16s8x")  # 64 bytes
_COUNTS = struct.Struct("<IIQQQ")  # those fields of the header that the checksum covers
_COLUMNS = ("<u8", "<u8", "<u8", "<u4", "<u4")
_ENTRY_BYTES = 32
_AGAIN = "write it again with python -m datasets.pack"


class _Entry(NamedTuple):
    """One frame of the index."""

    first: int  # halves of the hash of its name
    second: int
    place: int  # of its first byte in the file
    length: int  # bytes
    crc: int


class FrameStore:
    """An open file of frames; `digest` (hex) names its content: the names, places, lengths and sums of all frames."""

    def __init__(self, path: str, called: str = "DATASETS.PACK") -> None:
        """Open and check the file; raises MissingFileError / InputError naming it and how the user `called` it."""
        self.path = path
        self.called = called
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise MissingFileError(f"{called} {path} does not exist; {_AGAIN}, or name another file") from None
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{called} {path} cannot be opened ({reason}); {_AGAIN}") from None
        self._view = memoryview(self._map)
        self._count, start, self._names_bytes, checksum = self._read_header()
        columns = []
        for kind in _COLUMNS:
            columns.append(np.frombuffer(self._map, kind, self._count, start))
            start += columns[-1].nbytes
        self._first, self._second, self._place, self._length, self._crc = columns
        self._names_start = start
        self.digest = checksum.hex()

    def _read_header(self) -> tuple[int, int, int, bytes]:
        """(frames, start of the index, bytes of names, checksum), checked against the file."""
        if self._view[:8] != _MAGIC or len(self._view) < _HEADER.size:
            raise InputError(f"{self.called} {self.path} is no file of frames; {_AGAIN}")
        _, version, spare, count, start, names, checksum = _HEADER.unpack_from(self._view)
        if version != _VERSION:
            raise InputError(f"{self.called} {self.path} has version {version}, this code reads {_VERSION}; {_AGAIN}")
        end = start + count * _ENTRY_BYTES + names
        if end != len(self._view):
            raise InputError(
                f"{self.called} {self.path} has {len(self._view)} bytes, not {end}: it was cut or altered; {_AGAIN}"
            )
        counts = _COUNTS.pack(version, spare, count, start, names)
        if _checksum(counts, self._view[start:]) != checksum:
            raise InputError(f"{self.called} {self.path} has a damaged index; {_AGAIN}")
        return count, start, names, checksum

    def __reduce__(self) -> tuple:
        return FrameStore, (self.path, self.called)  # another process maps the file itself

    def __len__(self) -> int:
        return self._count

    def holds(self, name: str) -> bool:
        """Whether the frame `name`, a path below the data set's folder, is in the file."""
        return self._find(name) is not None

    def read(self, name: str) -> memoryview:
        """The bytes of the frame `name`; raises InputError when it is not there or its bytes were altered."""
        row = self._find(name)
        if row is None:
            raise InputError(
                f"{self.called} {self.path} does not hold frame {name}: it was written from other lists or of another "
                f"data set; {_AGAIN}, or leave the key empty"
            )
        content = self._content(row)
        if zlib.crc32(content) != self._crc[row]:
            raise InputError(f"{self.called} {self.path}: the bytes of frame {name} were altered; {_AGAIN}")
        return content

    def frames(self) -> Iterator[tuple[str, memoryview, bool]]:
        """(name, bytes, whether the bytes are those that were written) of each frame, in the order of the file."""
        names = bytes(self._view[self._names_start :]).split(b"\0")[:-1]
        for row in np.argsort(self._place, kind="stable").tolist():
            content = self._content(row)
            yield names[row].decode("utf-8", "surrogateescape"), content, zlib.crc32(content) == self._crc[row]

    def _content(self, row: int) -> memoryview:
        place = int(self._place[row])
        return self._view[place : place + int(self._length[row])]

    def _find(self, name: str) -> int | None:
        first, second = _hash(name)
        row = int(self._first.searchsorted(np.uint64(first)))
        while row < self._count and self._first[row] == first:
            if self._second[row] == second:
                return row
            row += 1
        return None


class PackedFrames:
    """The frames below the folder `root`, from a file of frames."""

    def __init__(self, store: FrameStore, root: str) -> None:
        self.store = store
        self.root = root

    def content(self, path: str) -> memoryview:
        """The bytes of the frame; raises InputError when the store does not hold it."""
        return self.store.read(below(self.root, path))

    def open(self, path: str) -> BinaryIO:
        """The same bytes as a file."""
        return BytesIO(self.content(path))


def frame_source(pack: str, root: str) -> FrameSource:
    """Where the frames of the data set in `root` are read from: the file `pack`, or their own files when it is ''."""
    return PackedFrames(FrameStore(pack), root) if pack else FILES


def write_store(file: BinaryIO, frames: Iterable[tuple[str, bytes]]) -> str:
    """Write (name, bytes of the image) of all frames into an empty file that can seek; returns the digest.

    Raises ValueError for a name that comes twice.
    """
    entries: list[tuple[_Entry, bytes]] = []
    place = file.write(bytes(_HEADER.size))
    for name, content in frames:
        entries.append((_Entry(*_hash(name), place, len(content), zlib.crc32(content)), _encoded(name) + b"\0"))
        place += file.write(content)
    entries.sort()
    hashes = [entry[:2] for entry, _ in entries]
    if len(set(hashes)) < len(hashes):
        raise ValueError("a frame is named twice")
    place += file.write(bytes(-place % 8))
    table = zip(*(entry for entry, _ in entries)) if entries else [()] * len(_COLUMNS)
    columns = [np.array(column, kind).tobytes() for column, kind in zip(table, _COLUMNS)]
    names = b"".join(name for _, name in entries)
    counts = (_VERSION, 0, len(entries), place, len(names))
    index = b"".join(columns) + names
    checksum = _checksum(_COUNTS.pack(*counts), index)
    file.write(index)
    file.seek(0)
    file.write(_HEADER.pack(_MAGIC, *counts, checksum))
    return checksum.hex()


def _checksum(counts: bytes, index: bytes | memoryview) -> bytes:
    digest = blake2b(counts, digest_size=16)
    digest.update(index)
    return digest.digest()


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _hash(name: str) -> tuple[int, int]:
    """Two numbers of 64 bits."""
    return struct.unpack("<QQ", blake2b(_encoded(name), digest_size=16).digest())

"""Numbers out of MATLAB 7.3 files, which are HDF5 (LS-VID); whole numbers and rows of queries (MARS, LS-VID)."""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from datasets.regular import check_regular
from datasets.sets.matlab5 import MOST_VALUES
from datasets.tracklet import Tracklet
from utils.errors import InputError

_LARGEST = 1e9  # more than any list has rows
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}  # each at most once
_MOST_CHUNKS, _SPARE_BYTES = 1_000, 8  # the latter in a chunk, for a checksum
_BEST_COMPRESSION = 1_032  # bytes that one byte of a zlib stream stands for at most


def read_matlab73(path: Path, dataset: str) -> np.ndarray:
    """The values of a row or column `dataset` of a MATLAB 7.3 file, in one dimension; raises InputError."""
    try:
        size = check_regular(path).st_size
        with path.open("rb") as file:
            start = file.read(10)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if not h5py.is_hdf5(path):
        found = "a MATLAB 5 file; save it with -v7.3" if start == b"MATLAB 5.0" else "not an HDF5 file"
        raise InputError(f"{path} must be a MATLAB 7.3 file (HDF5), but is {found}")
    try:
        with h5py.File(path, "r") as file:
            stored = _dataset(file, dataset, path)
            # MATLAB stores the shape of an empty array in place of its values.
            if stored.shape is None or np.any(stored.attrs.get("MATLAB_empty", False)):
                return np.zeros(0)
            _check_row(stored, dataset, path, size)
            _check_chunks(stored, dataset, path, size)
            return np.asarray(stored[()]).ravel()
    except InputError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise InputError(f"{path} cannot be read as HDF5 ({' '.join(str(error).split())})") from None


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The dataset `name` that lies in the file itself; another file is never opened."""
    names = list(file)
    if name not in names:
        found = ", ".join(names[:20]).encode("unicode_escape").decode()  # a message is one line
        raise InputError(f"{path} holds no dataset {name} (found: {found or 'none'})")
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{path}: {name} is a link to numbers elsewhere; save the numbers themselves")
    stored = file[name]
    if not isinstance(stored, h5py.Dataset):
        raise InputError(f"{path}: {name} is a group, not a dataset of numbers")
    if stored.external or stored.is_virtual:
        raise InputError(f"{path}: the numbers of {name} are kept in another file; save them in this one")
    return stored


def _check_row(stored: h5py.Dataset, name: str, path: Path, file_size: int) -> None:
    """Raise InputError unless it is one row of numbers that the file can hold; nothing is read yet."""
    # MATLAB stores a text as numbers.
    if stored.attrs.get("MATLAB_class") == b"char":
        raise InputError(f"{path}: {name} must hold whole numbers, holds a text")
    check_whole_numbers(np.zeros(0, stored.dtype), path, name)
    # HDF5 reads whole chunks, which may be larger than the dataset.
    count = max(stored.size, math.prod(stored.chunks or (0,)))
    if count > MOST_VALUES or count * stored.dtype.itemsize > _BEST_COMPRESSION * file_size:
        raise InputError(f"{path}: {name} announces {count:,} values, more than such a file can hold")
    if sum(length != 1 for length in stored.shape) > 1 or not stored.shape:
        raise InputError(f"{path}: {name} must be one row of numbers, has shape {stored.shape}")


def _check_chunks(stored: h5py.Dataset, name: str, path: Path, file_size: int) -> None:
    """Raise InputError for packed chunks that HDF5 would unpack to more than their own size."""
    if stored.chunks is None:
        return
    settings = stored.id.get_create_plist()
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= _FILTERS or stored.id.get_num_chunks() > _MOST_CHUNKS:
        raise InputError(f"{path}: {name} is packed as MATLAB packs no list; save it again with -v7.3")
    chunk_bytes = math.prod(stored.chunks) * stored.dtype.itemsize
    count = stored.id.get_num_chunks() if h5py.h5z.FILTER_DEFLATE in filters else 0
    for chunk in map(stored.id.get_chunk_info, range(count)):
        packed = stored.id.read_direct_chunk(chunk.chunk_offset)[1] if chunk.size <= file_size else b""
        inflater = zlib.decompressobj()
        inflater.decompress(packed, chunk_bytes + _SPARE_BYTES)
        if not inflater.eof:
            raise InputError(f"{path}: a part of {name} is damaged, or holds more values than it announces")


def check_whole_numbers(values: np.ndarray, path: Path, variable: str) -> None:
    """Raise InputError unless all values are whole numbers, of whatever type."""
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise InputError(f"{path}: {variable} must hold whole numbers, holds {values.dtype}")
    largest = np.abs(values.astype(np.float64)).max(initial=0)
    if largest > _LARGEST:
        raise InputError(f"{path}: {variable} holds {largest:.4g}, more than any list has rows")


def query_rows(
    values: np.ndarray, path: Path, variable: str, persons: Sequence[int | None], nobody: Mapping[int, str]
) -> list[int]:
    """The queries as 0-based rows of the test list; `values` numbers the rows from 1.

    `persons` has the person of each row (None: a faulty row), `nobody` what an id stands for that is no person to
    find. Raises InputError naming `path` for a number that is no row, is of such an id, or comes twice.
    """
    check_whole_numbers(values, path, variable)
    rows = (values.astype(np.int64).ravel() - 1).tolist()
    if not rows:
        raise InputError(f"{path}: {variable} names no tracklet")
    seen: set[int] = set()
    for row in rows:
        if not 0 <= row < len(persons):
            raise InputError(f"{path}: query {row + 1} is not a row of the {len(persons)} listed tracklets")
        if persons[row] in nobody:
            kind = nobody[persons[row]]
            raise InputError(f"{path}: query {row + 1} is {kind} (person {persons[row]}), no one to find")
        if row in seen:
            raise InputError(f"{path}: query {row + 1} is named twice")
        seen.add(row)
    return rows


def query_and_gallery(test: Mapping[int, Tracklet], rows: Sequence[int]) -> tuple[list[Tracklet], list[Tracklet]]:
    """The test tracklets in `rows`, in the order of `rows`, and all others; `test` has them by row."""
    in_query = set(rows)
    return [test[row] for row in rows if row in test], [t for row, t in test.items() if row not in in_query]

"""MATLAB 7.3 files: what would take too much memory, or lies in another file, is refused before it is read."""

import zlib

import h5py
import numpy as np
import pytest

from datasets.sets.matlab import read_matlab73
from utils.errors import InputError


@pytest.fixture
def path(tmp_path):
    """A path beside other.mat, which holds the dataset query."""
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["query"] = [[1.0, 2.0]]
    return tmp_path / "info.mat"


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        read_matlab73(path, "query")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2,), (1, 2, 1), (1, 1_000_000)])
@pytest.mark.parametrize("options", [{}, {"chunks": True, "compression": "gzip"}])
def test_a_row_or_a_column_is_read(path, shape, options):
    with h5py.File(path, "w") as file:
        file.create_dataset("query", data=np.ones(shape), **options)
    assert np.array_equal(read_matlab73(path, "query"), np.ones(np.prod(shape)))


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1, 9_000_000), "chunks": (1, 1000)},
        {"shape": (1, 10**12), "chunks": (1, 1000)},
        {"shape": (1, 9_000_000)},
        {"shape": (1, 2), "maxshape": (1, None), "chunks": (1, 10**8)},
        {"shape": (4_000_000, 4_000_000), "chunks": (100, 100)},
    ],
    ids=str,
)
def test_more_values_than_the_file_can_hold_are_refused(path, options):
    with h5py.File(path, "w") as file:
        file.create_dataset("query", dtype="f8", **options)
    refused(path, "query announces [0-9,]+ values, more than such a file can hold")


def test_texts_links_and_other_names_are_refused_unread(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("query", (1, 10**12), h5py.string_dtype(), chunks=(1, 1000))
    refused(path, "query must hold whole numbers, holds object")
    with h5py.File(path, "w") as file:
        file["a\nb"] = file["ü"] = 1
    refused(path, r"holds no dataset query .found: a\\nb, \\xfc")
    for link in (h5py.ExternalLink("other.mat", "/query"), h5py.ExternalLink("gone", "/"), h5py.SoftLink("/rows")):
        with h5py.File(path, "w") as file:
            file["rows"] = [[1.0]]
            file["query"] = link
        refused(path, "query is a link")


def test_numbers_kept_in_another_file_are_refused(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("query", (1, 2), "f8", external=[(str(path.parent / "other.mat"), 0, 16)])
    refused(path, "the numbers of query are kept in another file")
    layout = h5py.VirtualLayout((1, 2), "f8")
    layout[:] = h5py.VirtualSource(path.parent / "other.mat", "query", (1, 2))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("query", layout)
    refused(path, "the numbers of query are kept in another file")


def write_packed(path, content: bytes, filters: int = 1) -> None:
    """A row of 1,000 numbers in one chunk that is said to be packed by `filters` times deflate."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((1, 1000))
    for _ in range(filters):
        settings.set_deflate(9)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((1, 1000))
        h5py.h5d.create(file.id, b"query", h5py.h5t.NATIVE_DOUBLE, space, settings).write_direct_chunk((0, 0), content)


def test_a_chunk_that_grows_beyond_its_size_is_refused_before_hdf5_unpacks_it(path, monkeypatch):
    row = np.arange(1000.0)
    packed = zlib.compress(row.tobytes(), 9)
    write_packed(path, packed)
    assert np.array_equal(read_matlab73(path, "query"), row)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("HDF5 unpacks it"))
    write_packed(path, zlib.compress(bytes(10**8), 9))
    refused(path, "a part of query is damaged, or holds more values than it announces")
    write_packed(path, packed[:-9])
    refused(path, "a part of query is damaged")
    write_packed(path, b"no zlib stream")
    refused(path, "cannot be read as HDF5")
    write_packed(path, zlib.compress(packed), filters=2)
    refused(path, "query is packed as MATLAB packs no list")
    with h5py.File(path, "w") as file:
        file.create_dataset("query", data=row, chunks=(500,), compression="lzf")
    refused(path, "query is packed as MATLAB packs no list")
    with h5py.File(path, "w") as file:
        file.create_dataset("query", data=np.arange(1001.0), chunks=(1,))
    refused(path, "query is packed as MATLAB packs no list")


@pytest.mark.parametrize("options", [{"shuffle": True}, {"fletcher32": True}, {"maxshape": (None,)}])
def test_what_matlab_may_do_to_a_chunk_is_read(path, options):
    with h5py.File(path, "w") as file:
        file.create_dataset("query", data=np.arange(3504.0), chunks=(1000,), compression="gzip", **options)
    assert np.array_equal(read_matlab73(path, "query"), np.arange(3504.0))

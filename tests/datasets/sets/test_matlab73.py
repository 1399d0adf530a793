"""MATLAB 7.3 files: what would take too much memory, or lies in another file, is refused before it is read."""

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

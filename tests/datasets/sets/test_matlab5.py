"""MATLAB 5 files: arrays are read as scipy reads them, and any damaged file is refused in one line."""

import random
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array

from datasets.sets.matlab5 import read_matlab5
from tests.conftest import SHARED
from utils.errors import InputError

NUMBERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}
CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11, "i4": 12, "u4": 13, "i8": 14, "u8": 15}


def element(order: str, kind: int, data: bytes) -> bytes:
    if 0 < len(data) <= 4:
        small = (len(data), kind) if order == ">" else (kind, len(data))
        return struct.pack(f"{order}HH", *small) + data.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(values: np.ndarray, kind: str = "f8", order: str = "<", shape=None, name: bytes = b"x") -> bytes:
    """An array of class `kind`, its values stored in the type of `values`."""
    stored = values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")
    parts = element(order, 6, struct.pack(f"{order}II", CLASSES[kind], 0))
    parts += element(order, 5, np.array(shape or values.shape, f"{order}i4").tobytes())
    parts += element(order, 1, name) + element(order, TYPES[values.dtype.str[1:]], stored)
    return element(order, 14, parts)


def compressed(part: bytes, order: str = "<") -> bytes:
    data = zlib.compress(part)
    return struct.pack(f"{order}II", 15, len(data)) + data


def write(path: Path, *parts: bytes, order: str = "<") -> Path:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}HH", 0x100, 0x4D49) + b"".join(parts))
    return path


def refused(path: Path, match: str, variable: str = "x") -> None:
    with pytest.raises(InputError, match=match) as caught:
        read_matlab5(path, variable)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 7), (9, 1), (33, 4), (2, 3, 4)])
@pytest.mark.parametrize("kind", NUMBERS)
def test_what_scipy_writes_is_read_as_scipy_reads_it(tmp_path, kind, shape, compress):
    rng = np.random.default_rng(0)
    array = (rng.integers(-(2**62), 2**62, shape) if kind[0] != "f" else rng.normal(size=shape)).astype(kind)
    if kind[0] == "f" and array.size:
        array.flat[:2] = np.nan, np.inf
    content = {"text": "a text", "array": array, "long" * 15: array[:1]}
    savemat(tmp_path / "s.mat", content, do_compression=compress)
    for name in ("array", "long" * 15):
        expected, found = loadmat(tmp_path / "s.mat")[name], read_matlab5(tmp_path / "s.mat", name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("pack", [lambda part, order: part, compressed])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stored", NUMBERS)
def test_values_in_a_smaller_type_and_either_byte_order_are_read(tmp_path, stored, order, pack):
    for values in (np.arange(12).reshape(3, 4), np.array([[7]])):
        part = matrix(values.astype(stored), "f8", order)
        path = write(tmp_path / "s.mat", pack(part, order), order=order)
        found = read_matlab5(path, "x")
        assert found.dtype == np.float64 and found.dtype.isnative and (found == values).all()
        assert (loadmat(path)["x"] == found).all()


def test_the_official_files_are_read_as_scipy_reads_them():
    paths = sorted((SHARED / "mars-info").glob("*.mat"))
    if not paths:
        pytest.skip("the official lists are not here")
    for path in paths:
        content = {name: array for name, array in loadmat(path, mat_dtype=True).items() if name[0] != "_"}
        for name, array in content.items():
            found = read_matlab5(path, name)
            assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_no_array_of_real_numbers_is_passed_over_or_named(tmp_path, compress):
    others = {
        "a text": "some text",
        "a struct": {"field": 1},
        "a cell array": np.array([["a", 1]], object),
        "complex numbers": np.eye(2) * 1j,
        "a sparse array": csc_array(np.eye(3)),
    }
    names = {what: f"v{number}" for number, what in enumerate(others)}
    content = {names[what]: value for what, value in others.items()} | {"x": np.eye(3)}
    savemat(tmp_path / "s.mat", content, do_compression=compress)
    assert (read_matlab5(tmp_path / "s.mat", "x") == np.eye(3)).all()
    for what, name in names.items():
        refused(tmp_path / "s.mat", f"{name} must hold whole numbers, holds {what}", name)
    refused(tmp_path / "s.mat", "no variable y .found: v0, v1, v2, v3, v4, x", "y")


ROW = np.arange(5.0)[None]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([matrix(ROW, shape=(1, 4))], "x is not one block of 4 numbers"),
        ([matrix(ROW, shape=(-1, -5))], "x has the shape"),
        ([matrix(ROW, shape=(5,))], "x has the shape"),
        ([matrix(ROW, shape=(2**31 - 1, 2**31 - 1))], "no list has more than"),
        ([compressed(matrix(ROW, shape=(4_000_000, 4)))], "no list has more than"),
        ([compressed(matrix(ROW, shape=(1, 1)))], "longer than its shape"),
        ([compressed(matrix(np.zeros((1, 10**6)), shape=(1, 1)))], "longer than its shape"),
        ([compressed(matrix(ROW))[:-4] + bytes(4)], "incorrect data check"),
        ([matrix(ROW + 0.5, "i4")], "x holds values that int32 cannot hold"),
        ([matrix(ROW - 1, "u2")], "x holds values that uint16 cannot hold"),
        ([matrix(ROW * np.nan, "i8")], "x holds values that int64 cannot hold"),
        ([matrix(ROW), matrix(ROW)], "holds x twice"),
        ([matrix(ROW, name=f"y{number}".encode()) for number in range(1001)], "more than 1,000 variables"),
        ([matrix(ROW)[:-1]], "ends in the middle of an element"),
        ([matrix(ROW), b"\0\0\0"], "ends in the middle of an element"),
        ([element("<", 9, bytes(16))], "something else than variables"),
        ([matrix(ROW, name=b"\n")], "'.n' is not the name of a variable"),
        ([], "holds no variable x .found: none"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, parts, expected):
    refused(write(tmp_path / "s.mat", *parts), expected)


def test_a_file_that_is_no_matlab_5_file_or_a_huge_one_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "s.mat"
    savemat(path, {"x": ROW}, format="4")
    refused(path, "is not a MATLAB 5 file")
    monkeypatch.setattr("datasets.sets.matlab5._LARGEST_FILE", 200)
    refused(write(path, matrix(ROW)), "is not a MATLAB 5 file of at most 200 bytes")


def test_files_that_end_the_interpreter_under_scipy_are_refused():
    paths = sorted((SHARED / "damaged").glob("segv_*.mat"))
    if not paths:
        pytest.skip("the damaged files are not here")
    for path in paths:
        for variable in ("query_IDX", "track_train_info", "track_test_info"):
            refused(path, "cannot be read|holds no variable", variable)


def damaged(content: bytes, start: int, rng: random.Random) -> bytes:
    """`content` with a few bits changed, cut, or with a length, type or dimension soon after `start` replaced."""
    data, kind = bytearray(content), rng.randrange(3)
    if kind == 0:
        for _ in range(rng.choice([1, 1, 4])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    else:
        at = rng.randrange(start, min(len(data), start + 80)) // 4 * 4
        data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 14, 15, 2**16, 0x50001, 10**7, 2**31, 2**32 - 1]))
    return bytes(data)


def test_damaged_files_give_an_array_or_one_line(tmp_path):
    rng, path, lines = random.Random(0), tmp_path / "s.mat", 0
    parts = [matrix(ROW), matrix(np.zeros((40, 4), "i2"), "i4"), matrix(np.zeros((100, 50)))]
    for number in range(600):
        part = parts[number % 3]
        if number % 2:
            # Damaged before it is compressed, the checksum does not tell.
            write(path, compressed(damaged(part, 0, rng)))
        else:
            write(path, compressed(part) if number % 4 else part)
            path.write_bytes(damaged(path.read_bytes(), 120, rng))
        start = time.process_time()
        try:
            assert read_matlab5(path, "x").dtype.kind in "iuf"
        except InputError as error:
            lines += 1
            assert str(path) in str(error) and str(error).isprintable()
        assert time.process_time() - start < 1
    assert 300 < lines < 600

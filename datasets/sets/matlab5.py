"""Arrays of real numbers out of MATLAB 5 files, read as the public description "MAT-File Format" has them.

A file is a header and elements, an element is a tag (type and length) and data. A variable is an element of the type
matrix, compressed or not, whose data are elements again: flags with the class, dimensions, name and values.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.regular import read_regular
from utils.errors import InputError

MOST_VALUES, _MOST_VARIABLES = 10_000_000, 1_000  # more than any list has, and few enough for any memory
_LARGEST_FILE = 10 * MOST_VALUES  # bytes
_HEADER = 128  # bytes before the first variable; the last four hold version and byte order
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_HDF5 = b"\x89HDF\r\n\x1a\n"  # in MATLAB 7.3 after a header of 512 bytes
_LONGEST_START = 4_096  # bytes of a variable before its values
_NAMES, _DIMENSIONS, _FLAGS, _MATRIX, _COMPRESSED = (1, 16), 5, 6, 14, 15  # types of elements
# NumPy's types of stored values, by the type of their element, and of variables, by their class.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHER_CLASSES = {1: "a cell array", 2: "a struct", 4: "a text", 5: "a sparse array"}
_COMPLEX = 0x800  # flag


class _Variable(NamedTuple):
    """A variable whose values are not read yet."""

    name: str
    kind: str  # NumPy's type of its class, or in words what it holds instead of real numbers
    shape: tuple[int, ...]
    data: memoryview  # as in the file
    compressed: bool
    start: int  # of the values in `data`, decompressed


def read_matlab5(path: Path, variable: str) -> np.ndarray:
    """The array `variable` of a MATLAB 5 file; raises InputError naming the file and what it holds instead."""
    try:
        content = read_regular(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if _HDF5 in (content[:8], content[512:520]):
        raise InputError(f"{path} must be a MATLAB 5 file, but is one of MATLAB 7.3 (HDF5); save it with -v7")
    order = _ORDERS.get(content[_HEADER - 4 : _HEADER])
    if order is None or len(content) > _LARGEST_FILE:
        raise InputError(f"{path} is not a MATLAB 5 file of at most {_LARGEST_FILE:,} bytes")
    try:
        variables = _variables(memoryview(content), order)
        found = variables.get(variable)
        if found and found.kind in _CLASSES.values():
            return _values(found, order)
    except (ValueError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as a MATLAB 5 file ({error})") from None
    if found:
        raise InputError(f"{path}: {variable} must hold whole numbers, holds {found.kind}")
    names = ", ".join(filter(None, variables)) or "none"
    raise InputError(f"{path} holds no variable {variable} (found: {names:.500})")


def _variables(content: memoryview, order: str) -> dict[str, _Variable]:
    """All variables by name; what MATLAB keeps for itself has an empty one."""
    variables: dict[str, _Variable] = {}
    end = _HEADER
    while end < len(content):
        kind, data, _ = _element(content, end, order)
        end += 8 + len(data)
        variable = _variable(kind, data, order)
        if variable.name in variables or len(variables) == _MOST_VARIABLES:
            raise ValueError(f"it holds {variable.name:.100} twice, or more than {_MOST_VARIABLES:,} variables")
        variables[variable.name] = variable
    return variables


def _element(data: memoryview, start: int, order: str) -> tuple[int, memoryview, int]:
    """Type and data of the element at `start`, and where the next one starts: at a multiple of 8 bytes."""
    if start + 8 > len(data):
        raise ValueError("it ends in the middle of an element")
    kind, length = struct.unpack_from(f"{order}II", data, start)
    first, end = start + 8, start + 8 + -(-length // 8) * 8
    if kind >> 16:  # a small one: up to four bytes of data lie in the tag itself
        kind, length = kind & 0xFFFF, kind >> 16
        first, end = start + 4, start + 8
    if first + length > min(len(data), end):
        raise ValueError("it ends in the middle of an element")
    return kind, data[first : first + length], end


def _variable(kind: int, data: memoryview, order: str) -> _Variable:
    """The variable in the data of an element, from the elements before its values."""
    compressed = kind == _COMPRESSED
    begin, start = data, 0  # `begin`: up to the values at least
    if compressed:
        begin, start = memoryview(zlib.decompressobj().decompress(data, _LONGEST_START)), 8
        kind = int.from_bytes(begin[:4], "little" if order == "<" else "big")
    flags_kind, flags, start = _element(begin, start, order)
    if (kind, flags_kind, len(flags)) != (_MATRIX, _FLAGS, 8):
        raise ValueError("it holds something else than variables")
    flag = struct.unpack(f"{order}II", flags)[0]
    shape: tuple[int, ...] = ()
    kind, name, start = _element(begin, start, order)
    if kind == _DIMENSIONS:  # some objects have none
        shape = tuple(np.frombuffer(name, f"{order}i4").tolist())
        kind, name, start = _element(begin, start, order)
    text = name.tobytes().decode("latin-1")
    if kind not in _NAMES or not (text.isidentifier() or text == ""):
        raise ValueError(f"{text!r:.100} is not the name of a variable")
    what = _CLASSES.get(flag & 0xFF) or _OTHER_CLASSES.get(flag & 0xFF, "an object")
    return _Variable(text, "complex numbers" if flag & _COMPLEX else what, shape, data, compressed, start)


def _values(variable: _Variable, order: str) -> np.ndarray:
    name, shape, data = variable.name, variable.shape, variable.data
    count = math.prod(shape)
    if not 2 <= len(shape) <= 32 or min(shape) < 0 or count > MOST_VALUES:
        raise ValueError(f"{name} has the shape {str(shape):.100}; no list has more than {MOST_VALUES:,} values")
    if variable.compressed:
        # The shape bounds what is decompressed: a tag, up to 8 bytes for each value, and padding.
        inflater = zlib.decompressobj()
        data = memoryview(inflater.decompress(data, variable.start + 8 + 8 * count + 8))
        if not inflater.eof:
            raise ValueError(f"{name} is cut short, or longer than its shape {shape} tells")
    kind, stored, end = _element(data, variable.start, order)
    stored_type = np.dtype(_STORED.get(kind, "V1")).newbyteorder(order)
    if kind not in _STORED or len(stored) != count * stored_type.itemsize or end < len(data):
        raise ValueError(f"{name} is not one block of {count:,} numbers")
    # MATLAB stores values in a smaller type than that of their class where all of them fit.
    values = np.frombuffer(stored, stored_type)
    with np.errstate(all="ignore"):
        converted = values.astype(variable.kind)
    if not np.array_equal(converted, values, equal_nan=True):
        raise ValueError(f"{name} holds values that {converted.dtype} cannot hold")
    return converted.reshape(shape, order="F")

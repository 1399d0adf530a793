"""Tensors of a TorchScript file, read without running any of its code.

OpenAI distributes CLIP as such an archive: a zip with the pickled module tree in data.pkl and one file per storage.
The unpickler below accepts tensors, plain containers and module objects, which all get one empty class; anything else
is an error.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import InputError

_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_MOST_PARTS, _MOST_DEPTH = 200_000, 100  # of a tree of modules; the largest CLIP's has 3,000 parts in 8 levels


def is_torchscript(names: Iterable[str]) -> bool:
    """Whether an archive with members of these names holds TorchScript's code and data."""
    names = list(names)
    return any(name.endswith("/data.pkl") for name in names) and any("/code/" in name for name in names)


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """{dotted name: tensor} of all parameters and buffers; raises InputError for a broken or hostile archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickle_name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return _tensors(_ArchiveUnpickler(archive, pickle_name.removesuffix("data.pkl")).load())
    except Exception as error:  # a broken zip, pickle or tensor: each library raises its own kinds
        raise InputError(f"weight file {path} is not a readable TorchScript archive ({error})") from None


class _Module:
    """Replaces every class of the archive: holds the attributes of an object and runs nothing."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _ArchiveUnpickler(pickle._Unpickler):
    """Python's own unpickler in Python: the one in C fills the memory for a number in the file that is too large."""

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(BytesIO(archive.read(f"{prefix}data.pkl")))  # all of it, so that its checksum is compared
        self.archive = archive
        self.prefix = prefix
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return lambda values: values  # build_intlist and its like wrap plain lists
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _location, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown reference {kind}")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
            if count * dtype.itemsize != len(data):
                raise pickle.UnpicklingError(f"storage {key} has {len(data):,} bytes, not {count:,} values of {dtype}")
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _tensors(root: Any) -> dict[str, Tensor]:
    """{dotted name: tensor} below a module; raises ValueError for modules that hold themselves."""
    found: dict[str, Tensor] = {}
    todo, parts = [("", root)], 0
    while todo:
        name, node = todo.pop()
        parts += 1
        if parts > _MOST_PARTS or name.count(".") > _MOST_DEPTH:
            raise ValueError("its modules have no end: one holds itself")
        if isinstance(node, Tensor):
            found[name] = node
        elif isinstance(node, _Module):
            children = list(getattr(node, "attributes", {}).items())
            todo += [(f"{name}.{child}" if name else str(child), value) for child, value in reversed(children)]
    return found

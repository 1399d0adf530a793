"""Tensors of a TorchScript file, read without running any of its code.

OpenAI distributes CLIP as such an archive: a zip with the pickled module tree in data.pkl and one file per storage.
The unpickler below accepts tensors, plain containers and module objects, which all get one empty class; anything else
is an error.
"""

import pickle
import zipfile
from collections import OrderedDict
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


def is_torchscript(path: Path) -> bool:
    """Whether `path` is a zip archive with TorchScript's code and data."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False
    return any(name.endswith("/data.pkl") for name in names) and any("/code/" in name for name in names)


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """{dotted name: tensor} of all parameters and buffers; raises InputError for a broken or hostile archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickle_name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = _ArchiveUnpickler(archive, pickle_name.removesuffix("data.pkl")).load()
    except Exception as error:  # a broken zip, pickle or tensor: each library raises its own kinds
        raise InputError(f"weight file {path} is not a readable TorchScript archive ({error})") from None
    return dict(_tensors(root, ""))


class _Module:
    """Replaces every class of the archive: holds the attributes of an object and runs nothing."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _ArchiveUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(archive.open(f"{prefix}data.pkl"))
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
        kind, dtype, key, _location, _count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown reference {kind}")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _tensors(node: Any, prefix: str):
    if isinstance(node, Tensor):
        yield prefix, node
    elif isinstance(node, _Module):
        for name, child in getattr(node, "attributes", {}).items():
            yield from _tensors(child, f"{prefix}.{name}" if prefix else name)

"""Numbers out of MATLAB files: version 5 (MARS, iLIDS-VID) and version 7.3, which is HDF5 (LS-VID)."""

from pathlib import Path

import h5py
import numpy as np
from scipy.io import loadmat

from utils.errors import InputError

_LARGEST = 1e9  # more than any list has rows


def read_matlab5(path: Path, variable: str) -> np.ndarray:
    """The array `variable` of a MATLAB 5 file; raises InputError naming the file and what it holds instead."""
    _check_opens(path)
    if h5py.is_hdf5(path):
        raise InputError(f"{path} must be a MATLAB 5 file, but is one of MATLAB 7.3 (HDF5); save it with -v7")
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a file that is not MATLAB 5
        raise InputError(f"{path} cannot be read as a MATLAB 5 file ({_one_line(error)})") from None
    if variable not in content:
        found = [name for name in content if not name.startswith("__")]
        raise InputError(f"{path} holds no variable {variable} (found: {', '.join(found) or 'none'})")
    return np.asarray(content[variable])


def read_matlab73(path: Path, dataset: str) -> np.ndarray:
    """The values of a row or column `dataset` of a MATLAB 7.3 file, in one dimension; raises InputError."""
    start = _check_opens(path)
    if not h5py.is_hdf5(path):
        found = "a MATLAB 5 file; save it with -v7.3" if start == b"MATLAB 5.0" else "not an HDF5 file"
        raise InputError(f"{path} must be a MATLAB 7.3 file (HDF5), but is {found}")
    try:
        with h5py.File(path, "r") as file:
            if dataset not in file:
                raise InputError(f"{path} holds no dataset {dataset} (found: {', '.join(file) or 'none'})")
            stored = file[dataset]
            if not isinstance(stored, h5py.Dataset):
                raise InputError(f"{path}: {dataset} is a group, not a dataset of numbers")
            attributes, shape, values = dict(stored.attrs), stored.shape, np.asarray(stored[()])
    except InputError:
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise InputError(f"{path} cannot be read as HDF5 ({_one_line(error)})") from None
    # MATLAB stores the shape of an empty array in place of its values, and a text as numbers.
    if shape is None or attributes.get("MATLAB_empty"):
        return np.zeros(0)
    if attributes.get("MATLAB_class") == b"char":
        raise InputError(f"{path}: {dataset} must hold whole numbers, holds a text")
    if sum(length != 1 for length in shape) > 1 or not shape:
        raise InputError(f"{path}: {dataset} must be one row of numbers, has shape {shape}")
    return values.ravel()


def check_whole_numbers(values: np.ndarray, path: Path, variable: str) -> None:
    """Raise InputError unless all values are whole numbers, of whatever type."""
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise InputError(f"{path}: {variable} must hold whole numbers, holds {values.dtype}")
    largest = np.abs(values.astype(np.float64)).max(initial=0)
    if largest > _LARGEST:
        raise InputError(f"{path}: {variable} holds {largest:.4g}, more than any list has rows")


def _check_opens(path: Path) -> bytes:
    """The first bytes of the file."""
    try:
        with path.open("rb") as file:
            return file.read(10)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

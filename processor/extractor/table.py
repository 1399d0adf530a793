"""Files of features: features.npz with all about its tracklets, or features.npy beside such a file without features.

n tracklets, F features.
"""

import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from yacs.config import CfgNode

from configs import load_dumped_cfg
from configs.load import flatten
from model import pixel_statistics
from processor.run_folder import check_writable
from utils.errors import InputError, MissingFileError, file_fault
from utils.files import write_atomically

FEATURE_TYPES = ("float16", "float32")
_TEXTS = ("names", "cameras", "persons", "pictures")  # one per tracklet
TEMPORARY_CROPS = os.path.join(tempfile.gettempdir(), "tf-clip-crops-")  # what the names of such folders begin with
_ABOUT = ("weight", "weight_sha256", "config")
# Keys that change features though the weights still fit.
_SHAPING = ("MODEL.NAME", "MODEL.STRIDE_SIZE", "MODEL.ENCODER.HEADS", "MODEL.SIE_CAMERA", "MODEL.SIE_COE",
            "MODEL.SIE_UNSEEN", "INPUT.SIZE_TEST", "INPUT.SEQ_LEN", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD",
            "TEST.NECK_FEAT", "TEST.SAMPLING")  # fmt: skip


@dataclass(frozen=True)
class FeatureTable:
    """Features of n tracklets with what is known of each, and of the model that they are from."""

    features: NDArray  # (n, F) float32 or float16, of length 1; perhaps mapped from the disk
    names: NDArray[np.str_]  # (n,) tracklets
    frames: NDArray[np.int64]  # (n,) frames in each; 0 where not known
    cameras: NDArray[np.str_]  # (n,) names; '' where not known
    persons: NDArray[np.str_]  # (n,) names; '' where not known
    pictures: NDArray[np.str_]  # (n,) path of the middle frame; '' where it was not kept
    weight: str = ""  # path of the weight file; '' with the next two: a file of features alone
    weight_sha256: str = ""
    config: str = ""  # YAML text that the model was built and tested with

    def check_fits(self, other: "FeatureTable", here: str, there: str) -> None:
        """Raise InputError unless the features of both can be compared; `here` and `there` name the two files."""
        if self.features.shape[1] != other.features.shape[1]:
            widths = self.features.shape[1], other.features.shape[1]
            raise InputError(f"{here} has {widths[0]:,} features per tracklet, {there} {widths[1]:,}: not of one model")
        if not (self.weight and other.weight):
            return
        if self.weight_sha256 != other.weight_sha256:
            raise InputError(
                f"{here} is of other weights than {there}: {self.weight} (sha256 {self.weight_sha256[:12]}...), "
                f"{other.weight} ({other.weight_sha256[:12]}...); extract one of them anew"
            )
        ours, theirs = (_keys(load_dumped_cfg(t.config, file)) for t, file in ((self, here), (other, there)))
        for key in _SHAPING:
            if ours[key] != theirs[key]:
                raise InputError(
                    f"{here} was extracted with {key} {ours[key]}, {there} with {theirs[key]}; extract one of them anew"
                )


def _keys(cfg: CfgNode) -> dict[str, Any]:
    """Every key with its value, those of the pixel statistics with what INPUT.PIXEL_STATISTICS makes of them."""
    return dict(flatten(cfg)) | dict(zip(("INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"), pixel_statistics(cfg)))


def save_table(path: Path, table: FeatureTable) -> None:
    """Write features.npz, or for a path that ends in .npy the rest of the table into an .npz beside it.

    Pictures below the folder of the file are named from there, so that both may be moved together; those that lie in
    TEMPORARY_CROPS are not named.
    """
    folder = os.path.join(os.path.abspath(path.parent), "")
    kept = ["" if p.startswith(TEMPORARY_CROPS) else p for p in table.pictures.tolist()]
    pictures = [p and os.path.abspath(p).removeprefix(folder) for p in kept]
    table = replace(table, pictures=np.array(pictures, dtype=str))
    alone = path.suffix == ".npy"
    arrays = {f.name: np.asarray(getattr(table, f.name)) for f in fields(table) if not (alone and f.name == "features")}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            (np.savez_compressed if alone else np.savez)(file, **arrays)

    write_atomically(path.with_suffix(".npz"), write)


def load_table(path: Path) -> FeatureTable:
    """The table in features.npz, or the one of features.npy, whose features then stay on the disk.

    An .npy file without the .npz beside it is a table of features alone, in which row numbers are the names. Raises
    MissingFileError or InputError naming the file.
    """
    if fault := file_fault(path):
        raise MissingFileError(f"{path} {fault}; python -m processor.extract writes such files")
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"{path} is no file of features, which end in .npz or .npy")
    about = path.with_suffix(".npz")
    values = _read_npz(about) if about.exists() else {}
    stored = about
    if path.suffix == ".npy" and "features" in values:
        raise InputError(f"{about} beside {path} holds other features: name that file, or move one of the two")
    if "features" not in values:
        stored = path.with_suffix(".npy")
        values["features"] = _map_npy(stored)
    features = values["features"]
    if features.ndim != 2 or features.dtype.name not in FEATURE_TYPES or not features.size:
        found = f"{features.dtype} {features.shape}"
        raise InputError(f"{stored} holds {found}; expected are features (n, F) in {' or '.join(FEATURE_TYPES)}")
    number = len(features)
    if not about.exists():
        unknown = np.zeros(number, dtype="U1")
        return FeatureTable(features, np.arange(number).astype(str), np.zeros(number, int), *[unknown] * 3)
    for name in (*_TEXTS, "frames"):
        if values[name].shape != (number,):
            raise InputError(f"{about} holds {name} {values[name].shape} for {number:,} tracklets; extract it anew")
    folder = os.path.abspath(path.parent)
    pictures = [p and os.path.join(folder, p) for p in values["pictures"].tolist()]
    return FeatureTable(**values | {"pictures": np.array(pictures, dtype=str)})


def check_rewritable(path: Path) -> None:
    """Raise InputError where a new table must not be written: over another file, or in a folder that takes none."""
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"--out {path} must end in .npz, or in .npy for features that are mapped from the disk")
    if not path.parent.is_dir():
        raise MissingFileError(f"--out {path}: the folder {path.parent} does not exist")
    check_writable(path.parent, "--out")
    about = path.with_suffix(".npz")
    for file in {path, about}:
        if file.exists() and not (about.exists() and _is_table(about)):
            raise InputError(f"--out {path}: {file} exists and was not written by this command; name another file")


def _is_table(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{name}.npy" for name in (*_TEXTS, *_ABOUT)} <= set(archive.namelist())
    except Exception:
        return False


def _read_npz(path: Path) -> dict[str, Any]:
    """The fields of a table; texts as str."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive of arrays, or was cut off")
        with np.load(path, allow_pickle=False) as file:
            names = [f.name for f in fields(FeatureTable) if f.name in file]
            values: Mapping[str, NDArray] = {name: file[name] for name in names}
    except Exception as error:  # numpy and zipfile raise many kinds for a broken file
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as a file of features ({reason})") from None
    missing = [name for name in (*_TEXTS, "frames", *_ABOUT) if name not in values]
    if missing or any(values[name].dtype.kind != "U" for name in (*_TEXTS, *_ABOUT)):
        problem = f"lacks {', '.join(missing)}" if missing else "holds numbers in place of texts"
        raise InputError(f"{path} was not written by python -m processor.extract: it {problem}")
    return {name: str(value) if name in _ABOUT else value for name, value in values.items()}


def _map_npy(path: Path) -> NDArray:
    if fault := file_fault(path):
        raise MissingFileError(f"{path} {fault}; the features of {path.with_suffix('.npz')} belong there")
    try:
        return np.lib.format.open_memmap(path, mode="c")  # "c": torch warns of memory that cannot be written
    except Exception as error:
        raise InputError(f"{path} cannot be read as an array of features ({' '.join(str(error).split())})") from None

"""The nearest gallery features of each query by FAISS, which looks at a small part of a large gallery.

Features are projected to their 256 main directions (PCA) and put into groups around about sqrt(G) centres (IVF), 8 bits
per number; directions and centres are learned from a sample. A query is compared with the groups of the nearest
centres, and the best candidates are then compared with it exactly, in full width. The index is built once and lies
beside the features. G gallery features, F their width, Q queries.
"""

import json
import logging
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from processor.search.exact import block_rows, check_finite, nearest_of
from utils.errors import InputError
from utils.files import save_json, write_atomically
from utils.progress import progress

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)
logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it says which instructions FAISS was compiled for

_VERSION = 2  # goes up when the same features are to give another index
_PER_CENTRE = 39  # sampled features to learn a centre or direction from: the fewest that FAISS does not warn of
_DIRECTIONS = 256  # of PCA; narrower features, and few, stay as they are
_PROBED = 1 / 4  # share of the groups that a query is compared with
_FEWEST_PROBED = 16
_CANDIDATES = 10  # per neighbour that is asked for
_SAMPLE_HASHED = 1024  # features that the fingerprint reads


def is_installed() -> bool:
    """Whether FAISS can be imported."""
    return find_spec("faiss") is not None


def check_installed() -> None:
    """Raise InputError where FAISS is missing."""
    if not is_installed():
        raise InputError("--index faiss needs FAISS: pip install faiss-cpu, or take --index exact")


def faiss_nearest(
    gallery_GF: NDArray, queries_QF: NDArray, top: int, index_file: Path
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and Euclidean distances (Q, top) of near gallery features: nearly always the nearest, the distances exact.

    The index is read from `index_file`, which has the name of the features' file but for its end, or built and written
    there if it does not belong to these features. Files of these names that are from elsewhere stay: the index then
    serves this search alone, and a warning says so.
    """
    check_installed()
    import faiss

    queries_QF = np.ascontiguousarray(queries_QF, np.float32)
    check_finite(queries_QF, "a query")
    top = min(top, len(gallery_GF))
    index = _read(index_file, gallery_GF) or _build(gallery_GF, index_file)
    groups = faiss.extract_index_ivf(index).nlist
    probed = max(_FEWEST_PROBED, round(groups * _PROBED))
    while True:
        options = faiss.SearchParametersIVF(nprobe=min(probed, groups))
        if isinstance(index, faiss.IndexPreTransform):
            options = faiss.SearchParametersPreTransform(index_params=options)
        _, candidates = index.search(queries_QF, min(_CANDIDATES * top, len(gallery_GF)), params=options)
        if probed >= groups or ((candidates >= 0).sum(axis=1) >= top).all():
            return nearest_of(gallery_GF, queries_QF, candidates, top)
        probed *= 2  # the groups held too few


def _is_current(index_file: Path, gallery_GF: NDArray) -> bool:
    """Whether the file holds the index of these features."""
    try:
        known = json.loads(_about(index_file).read_text(encoding="utf-8"))
        return known == _fingerprint(index_file, gallery_GF) | {"bytes": index_file.stat().st_size}
    except (OSError, ValueError):
        return False


def _is_ours(index_file: Path) -> bool:
    """Whether the file beside the index is one that this module has written."""
    try:
        known = json.loads(_about(index_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and {"version", "sample", "written", "bytes"} <= known.keys()


def _read(index_file: Path, gallery_GF: NDArray) -> "faiss.Index | None":
    import faiss

    if not _is_current(index_file, gallery_GF):
        return None
    try:
        return faiss.read_index(str(index_file), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        logger.warning("%s cannot be read (%s); it is built again", index_file, str(error).splitlines()[0])
        return None


def _build(gallery_GF: NDArray, index_file: Path) -> "faiss.Index":
    import faiss

    start = perf_counter()
    count, width = gallery_GF.shape
    centres = max(1, min(round(count**0.5), count // _PER_CENTRE))
    projection = f"PCA{_DIRECTIONS}," if width > _DIRECTIONS and count >= _PER_CENTRE * _DIRECTIONS else ""
    index = faiss.index_factory(width, f"{projection}IVF{centres},SQ8")
    rows = np.sort(np.random.default_rng(0).permutation(count)[: _PER_CENTRE * max(centres, _DIRECTIONS)])
    sample = gallery_GF[rows].astype(np.float32)
    check_finite(sample, "a sample of the gallery")
    logger.info("FAISS: learning %d centres from %d of %d features", centres, len(sample), count)
    index.train(sample)
    del sample
    step = block_rows(width)
    for first in progress(range(0, count, step), "adding features", "block"):
        block = gallery_GF[first : first + step].astype(np.float32)
        check_finite(block, f"the gallery from row {first} on")
        index.add(block)
    logger.info("FAISS: index built in %.1f s", perf_counter() - start)

    def write(temporary: Path) -> None:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError:  # FAISS hides what the system says
            raise OSError("the folder cannot be written, or the disk is full") from None
        index_file.unlink(missing_ok=True)  # so that whenever this is killed, no .json speaks of another index
        save_json(_about(index_file), _fingerprint(index_file, gallery_GF) | {"bytes": temporary.stat().st_size})

    try:
        for file in (index_file, _about(index_file)):
            if file.exists() and not _is_ours(index_file):
                raise InputError(f"{file} exists and was not written by this command: move it")
        write_atomically(index_file, write)
    except InputError as error:
        logger.warning("%s; the index serves this search alone", error.line)
    return index


def _about(index_file: Path) -> Path:
    return index_file.with_name(f"{index_file.name}.json")


def _fingerprint(index_file: Path, gallery_GF: NDArray) -> dict:
    """What tells that an index belongs to these features: number, type, a hash of some, when the files were written."""
    beside = [index_file.with_suffix(suffix) for suffix in (".npy", ".npz")]
    rows = np.linspace(0, len(gallery_GF) - 1, min(_SAMPLE_HASHED, len(gallery_GF))).astype(int)
    digest = sha256(np.ascontiguousarray(gallery_GF[rows]).tobytes()).hexdigest()
    return {
        "version": _VERSION,
        "shape": list(gallery_GF.shape),
        "type": gallery_GF.dtype.name,
        "sample": digest,
        "written": [path.stat().st_mtime_ns if path.exists() else 0 for path in beside],
    }

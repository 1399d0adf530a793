"""From tracklets of one's own to a table of their features, in memory or on the disk.

n tracklets, F features.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.own.names import NamedTracklet, natural_key
from datasets.own.unsplit import read_tracklets
from processor.extractor.extractor import FeatureExtractor
from processor.extractor.table import TEMPORARY_CROPS, FeatureTable, save_table
from utils.errors import InputError
from utils.files import write_atomically

logger = logging.getLogger(__name__)

_PER_PASS = 20_000  # tracklets; bounds the list of clips and, on a GPU, the features that are held


@contextmanager
def opened_input(
    path: Path, extractor: FeatureExtractor, camera: str | None = None, cache: Path | None = None
) -> Iterator[list[NamedTracklet]]:
    """The tracklets of a folder or CSV file, as `read_tracklets` finds them; what was found is logged.

    `camera` takes the place of all cameras that the input names; '' is one that is not known. Crops of boxes and videos
    stay in the folder `cache`; without one they are deleted at the end of the context. Raises InputError for a camera
    that the model does not know.
    """
    outside = extractor.trained.cfg.DATASETS.OUTSIDE
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_CROPS) if cache is None else nullcontext(cache) as folder:
        found, tracklets = read_tracklets(path, str(folder), outside)
        logger.info("%s", found)
        if camera is not None:
            tracklets = [t._replace(camera=camera) for t in tracklets]
        names = sorted({t.camera for t in tracklets} - {""}, key=natural_key)
        try:
            extractor.check_cameras(names)
        except InputError as error:
            advice = "or --camera '' treats every camera as not known, --camera NAME as that one"
            raise InputError(f"{path}: {error.line}, {advice}") from None
        if extractor.cameras:
            known = [name for name in names if name in extractor.cameras]
            untrained = ", ".join(name for name in names if name not in extractor.cameras)
            logger.info(
                "cameras: %s; not known for %d of %d tracklets%s (MODEL.SIE_UNSEEN %s)",
                f"{', '.join(known)} as in training" if known else "none",
                sum(t.camera not in known for t in tracklets), len(tracklets),
                f", those of {untrained} among them, which training has not seen" if untrained else "",
                extractor.trained.cfg.MODEL.SIE_UNSEEN,
            )  # fmt: skip
        else:
            logger.info("cameras: the features of this model do not depend on them")
        yield tracklets


def extract_features(
    extractor: FeatureExtractor,
    tracklets: Sequence[NamedTracklet],
    weight: Path,
    map_to: Path | None = None,
    half: bool = False,
) -> FeatureTable:
    """The table of features of tracklets, by a model from the file `weight`.

    With `map_to` the features are written to that .npy file while they come, in float16 with `half`, and are mapped
    from there; the .npz file beside it gets the rest.
    """

    def table(features: NDArray) -> FeatureTable:
        return FeatureTable(
            features,
            names=np.array([t.name for t in tracklets], dtype=str),
            frames=np.array([len(t.frames) for t in tracklets]),
            cameras=np.array([t.camera for t in tracklets], dtype=str),
            persons=np.array([t.person for t in tracklets], dtype=str),
            pictures=np.array([t.frames[len(t.frames) // 2] for t in tracklets], dtype=str),
            weight=os.path.abspath(weight),
            weight_sha256=extractor.trained.weight_sha256,
            config=extractor.trained.cfg.dump(),
        )

    shape = len(tracklets), extractor.num_features
    if map_to is None:
        features: NDArray = np.empty(shape, np.float32)
        _fill(features, extractor, tracklets)
        return table(features)
    dtype = np.float16 if half else np.float32

    def write(temporary: Path) -> None:
        rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        _fill(rows, extractor, tracklets)
        rows.flush()
        # Whenever this is killed, no .npz describes other features, and no .npy is without the .npz that lets it be
        # written anew.
        map_to.unlink(missing_ok=True)
        save_table(map_to, table(rows))

    write_atomically(map_to, write, lambda: shape[0] * shape[1] * np.dtype(dtype).itemsize)
    return table(np.lib.format.open_memmap(map_to, mode="c"))


def _fill(features: NDArray, extractor: FeatureExtractor, tracklets: Sequence[NamedTracklet]) -> None:
    for start in range(0, len(tracklets), _PER_PASS):
        part = tracklets[start : start + _PER_PASS]
        features[start : start + len(part)] = extractor.many([t.frames for t in part], [t.camera for t in part])

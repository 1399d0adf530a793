"""The nearest tracklets of each query in a file of features."""

import logging
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from configs import check_opts, load_cfg, load_dumped_cfg
from configs.command import CommandParser, run_command, say
from utils.errors import InputError, MissingFileError

if TYPE_CHECKING:  # importing it takes seconds
    from processor.extractor import FeatureTable

logger = logging.getLogger(__name__)

_ABOUT = """\
Find the nearest tracklets of each query in a file of features.

--query is a folder or CSV file of tracklets, read as python -m processor.extract reads them and embedded by the weights
that made the gallery, or a file of features. The distance is Euclidean, between features of length 1 from 0 to 2.
--out FOLDER gets search.csv and, where the frames are there, search.png.

--index exact compares every query with every gallery tracklet. --index faiss (pip install faiss-cpu) compares it with
the groups around the nearest centres, and finds nearly all of the nearest; the index is built once and lies beside the
features. --index auto is faiss where it is installed and the gallery has at least {:,} tracklets, else exact.

KEY VALUE pairs change how a query folder is read and embedded, such as DATASETS.OUTSIDE allow; those that change
features are those of the gallery.
"""
FAISS_FROM = 1_000_000  # gallery tracklets; comparing a query with fewer takes less time than starting the program
_ON_SCREEN = 10  # queries, where a file has all


def main(argv: Sequence[str]) -> int:
    """Search; returns the exit code."""

    def work() -> None:
        about = _ABOUT.format(FAISS_FROM)
        parser = CommandParser(about, config="", formatter_class=RawDescriptionHelpFormatter)
        parser.add_argument("--features", type=Path, required=True, help="gallery: FILE.npz or FILE.npy")
        parser.add_argument("--query", type=Path, required=True, help="folder, CSV file, FILE.npz or FILE.npy")
        parser.add_argument("--top", type=int, default=10, help="nearest tracklets per query (10)")
        parser.add_argument("--weight", type=Path, help="weight file of a query folder; default: as the gallery says")
        parser.add_argument(
            "--config_file", "--config-file", type=Path, help="config of a query folder; default: as the gallery says"
        )
        parser.add_argument("--camera", help="camera of all queries; '': not known; default: as the input says")
        parser.add_argument("--out", type=Path, help="folder for search.csv and search.png")
        parser.add_argument("--index", choices=("auto", "exact", "faiss"), default="auto", help="see above (auto)")
        arguments = parser.parse(argv)
        if arguments.top < 1:
            parser.error(f"--top {arguments.top} must be 1 or more")
        if not arguments.query.exists():
            raise MissingFileError(f"--query {arguments.query} does not exist; name a folder, CSV file or features")
        check_opts(arguments.opts)
        if arguments.index == "faiss":
            from processor.search.faiss_index import check_installed

            check_installed()
        _search(arguments)

    return run_command(work)


def _search(arguments: Namespace) -> None:
    """The work, behind the imports that take seconds."""
    from processor.extractor import load_table
    from processor.run_folder import check_writable, create_output_dir
    from processor.search import results

    gallery = load_table(arguments.features)
    out = arguments.out
    if out is not None:
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out} is a file; name a folder")
        check_writable(out, "--out")
    with _queries(arguments, gallery) as query:
        gallery.check_fits(query, str(arguments.features), str(arguments.query))
        found = results.Found(query, gallery, *_nearest(arguments, gallery.features, query.features))
        say(found.lines(None if out is None else _ON_SCREEN))
        if out is None:
            return
        create_output_dir(out)
        written = results.save(found, out)
    logger.info("wrote %s", ", ".join(map(str, written)))


def _nearest(arguments: Namespace, gallery: NDArray, query: NDArray) -> tuple[NDArray, NDArray]:
    """Rows and distances (Q, top), by the index that was asked for."""
    from processor.runtime import current_device
    from processor.search import faiss_index
    from processor.search.exact import exact_nearest

    large = len(gallery) >= FAISS_FROM
    compared = f"{len(query):,} {'query' if len(query) == 1 else 'queries'} against {len(gallery):,} tracklets"
    if arguments.index == "faiss" or (arguments.index == "auto" and large and faiss_index.is_installed()):
        logger.info("%s by FAISS", compared)
        return faiss_index.faiss_nearest(gallery, query, arguments.top, arguments.features.with_suffix(".faiss"))
    logger.info("%s, each compared with all", compared)
    return exact_nearest(gallery, query, arguments.top, current_device())


@contextmanager
def _queries(arguments: Namespace, gallery: "FeatureTable") -> "Iterator[FeatureTable]":
    """The table of the queries: of a file, or of tracklets that the weights of the gallery embed now."""
    from processor.extractor import FeatureExtractor, extract_features, load_table, opened_input
    from processor.trained_model import load_trained
    from utils.files import file_hash

    path, weight = arguments.query, arguments.weight or Path(gallery.weight)
    if path.suffix in (".npz", ".npy") and not path.is_dir():
        if arguments.weight or arguments.camera is not None or arguments.config_file or arguments.opts:
            raise InputError(
                f"--weight, --config_file, --camera and KEY VALUE belong to a query of frames; {path} holds features"
            )
        yield load_table(path)
        return
    if not (arguments.weight or gallery.weight):
        raise InputError(f"{arguments.features} does not say what weights it is from: name them with --weight")
    if not weight.is_file():
        advice = "name the weights of the gallery with --weight"
        raise MissingFileError(f"the weight file {weight} does not exist; {advice}")
    if gallery.weight and (found := file_hash(weight)) != gallery.weight_sha256:
        raise InputError(
            f"{weight} (sha256 {found[:12]}...) is not the weight file of {arguments.features}: that was "
            f"{gallery.weight} ({gallery.weight_sha256[:12]}...); name it with --weight, or extract the gallery anew"
        )
    config = None
    if arguments.config_file:
        config = load_cfg(arguments.config_file, arguments.opts)
    elif gallery.config:
        config = load_dumped_cfg(gallery.config, str(arguments.features), arguments.opts)
    trained = load_trained(weight, config, opts=arguments.opts)
    extractor = FeatureExtractor(trained, trained.cfg.DATALOADER.NUM_WORKERS)
    with opened_input(path, extractor, arguments.camera) as tracklets:
        yield extract_features(extractor, tracklets, weight)

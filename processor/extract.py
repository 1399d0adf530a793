"""Features of tracklets of one's own into a file.

python -m processor.extract --weight W --input FOLDER|LIST.csv --out features.npz [KEY VALUE ...]
"""

import logging
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from configs import check_opts, load_cfg
from configs.command import CommandParser, run_command
from utils.errors import MissingFileError

logger = logging.getLogger(__name__)

_ABOUT = """\
Write the features of tracklets into a file.

--input is a folder or a CSV file. A folder that holds frames is one tracklet. Otherwise all folders that hold frames
must lie equally deep below it: one level, <tracklet>/; two, <person>/<camera>_<tracklet>/; three,
train|query|gallery/<person>/<camera>_<tracklet>/, as the data set 'folder' has them. The camera is what stands before
the last underscore; where no name has one, no camera is known. A CSV file has the columns tracklet,frame, or with
videos tracklet,video,frame, and where there are boxes x,y,w,h (pixels); split, person and camera are optional. The
column video decides between the two. The log says what was found.

--out FILE.npz holds features (float32, n x F, length 1), names, frames, cameras, persons, pictures (path of each
middle frame), weight, weight_sha256 and config. --out FILE.npy holds the features alone, to be mapped from the disk, in
float16 with --half, and the rest goes to FILE.npz. A file that this command has written before is written anew, any
other one is refused.

Of the KEY VALUE pairs those count that a test of the model reads: MODEL.SIE_UNSEEN, TEST.SAMPLING, TEST.NECK_FEAT,
TEST.PRECISION and TEST.FRAMES_PER_BATCH; of reading, DATALOADER.NUM_WORKERS, DATASETS.ON_BAD_FRAME,
DATASETS.BAD_FRAME_LIMIT and DATASETS.OUTSIDE; and those of MODEL and INPUT that say how the weights were trained, for a
file that does not know. Others have no effect.
"""


def main(argv: Sequence[str]) -> int:
    """Extract features; returns the exit code."""

    def work() -> None:
        parser = CommandParser(_ABOUT, config="", formatter_class=RawDescriptionHelpFormatter)
        parser.add_argument("--weight", type=Path, required=True, help="weight file, ours or a published one")
        parser.add_argument("--input", type=Path, required=True, help="folder or CSV file, see above")
        parser.add_argument("--out", type=Path, required=True, help="FILE.npz, or FILE.npy for very many tracklets")
        parser.add_argument(
            "--config_file", "--config-file", type=Path, help="config of a file that is no checkpoint of ours"
        )
        parser.add_argument("--camera", help="camera of all tracklets; '': not known; default: as the input says")
        parser.add_argument("--half", action="store_true", help="float16, with an --out that ends in .npy")
        parser.add_argument(
            "--cache", type=Path, help="folder that keeps the crops of boxes and videos; default: a temporary one"
        )
        arguments = parser.parse(argv)
        if arguments.half and arguments.out.suffix != ".npy":
            parser.error("--half belongs to an --out that ends in .npy")
        if not arguments.input.exists():
            raise MissingFileError(f"--input {arguments.input} does not exist; name a folder or a CSV file")
        if arguments.cache is not None and arguments.input.is_dir():
            parser.error("--cache keeps the crops of a CSV file's boxes and videos, but --input is a folder")
        check_opts(arguments.opts)
        config = load_cfg(arguments.config_file, arguments.opts) if arguments.config_file else None
        _extract(arguments, config)

    return run_command(work)


def _extract(arguments: Namespace, config: CfgNode | None) -> None:
    """The work, behind the imports that take seconds."""
    from processor.extractor import FeatureExtractor, check_rewritable, extract_features, opened_input, save_table
    from processor.trained_model import load_trained

    weight, out = arguments.weight, arguments.out
    check_rewritable(out)
    trained = load_trained(weight, config, opts=arguments.opts)
    extractor = FeatureExtractor(trained, trained.cfg.DATALOADER.NUM_WORKERS)
    logger.info("weights: %s, %d features, %s", weight, extractor.num_features, trained.runtime.precision)
    mapped = out if out.suffix == ".npy" else None
    with opened_input(arguments.input, extractor, arguments.camera, arguments.cache) as tracklets:
        table = extract_features(extractor, tracklets, weight, mapped, arguments.half)
        if mapped is None:
            save_table(out, table)
    also = f" and {out.with_suffix('.npz')}" if mapped else ""
    logger.info("wrote %s%s: features (%d, %d) in %s", out, also, *table.features.shape, table.features.dtype)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

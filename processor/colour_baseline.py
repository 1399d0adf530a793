"""A baseline from colour alone: mean RGB of horizontal stripes, cosine distance, the protocol of every test.

python -m processor.colour_baseline [--config_file F] [KEY VALUE ...]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs import load_cfg
from configs.command import CommandParser, run_command
from datasets.frames import FILES, FrameSource, frame_source, read_frame
from datasets.tracklet import Tracklet
from processor.evaluation import Evaluation, log_table, rank_tracklets
from processor.experiment import prepare
from processor.protocol import EvalProtocol
from utils.progress import progress

_STRIPES = 8


def main(argv: Sequence[str]) -> int:
    """Score the data set of the config by colour; returns the exit code."""

    def work() -> None:
        arguments = CommandParser("Score a data set by the mean colours of horizontal stripes.").parse(argv)
        cfg = load_cfg(arguments.config_file, arguments.opts)
        cfg.defrost()
        cfg.SOLVER.AMP = "off"  # there is no network whose number type could matter
        experiment = prepare(cfg, Path(cfg.OUTPUT_DIR))
        splits = experiment.splits
        source, protocol = frame_source(splits.pack, splits.root), experiment.protocol("dense")
        evaluation = score_colours(splits.query, splits.gallery, cfg.INPUT.SIZE_TEST, protocol, source)
        log_table({f"colours of {_STRIPES} stripes": evaluation.metrics})

    return run_command(work)


def score_colours(
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    size: Sequence[int],
    protocol: EvalProtocol,
    source: FrameSource = FILES,
) -> Evaluation:
    """Rank tracklets by stripe colours. Of unit vectors Euclidean and cosine distance give the same order."""
    tracklets = (*query, *gallery)
    features = np.stack([stripe_colours(t, size, source) for t in progress(tracklets, "colours", "tracklet")])
    return rank_tracklets(features, tracklets, len(query), protocol)


def stripe_colours(tracklet: Tracklet, size: Sequence[int], source: FrameSource = FILES) -> NDArray[np.float32]:
    """Mean RGB in [0, 1] of each stripe over all frames: (stripes * 3,)."""
    frames = np.stack([read_frame(path, size, source).numpy() for path in tracklet.frames])  # (n, 3, H, W)
    stripes = np.array_split(frames.mean(axis=(0, 3)), _STRIPES, axis=1)  # each (3, rows)
    return np.concatenate([stripe.mean(axis=1) for stripe in stripes]).astype(np.float32) / 255


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The two commands of the top level: train-main.py and eval-main.py.

torch and the rooms that need it are imported once the command line and the config are sound, so that a mistyped key is
answered at once.
"""

import argparse
from collections.abc import Callable, Sequence

from yacs.config import CfgNode

from configs import load_cfg
from configs.command import CommandParser, run_command


def train_main(argv: Sequence[str]) -> int:
    """`train-main.py`: train, test the best and the last epoch; returns the exit code."""

    def work(cfg: CfgNode, arguments: argparse.Namespace) -> None:
        from processor.series import train

        train(cfg, arguments)

    return _run(argv, "Train TF-CLIP, then test the best and the last epoch.", work)


def eval_main(argv: Sequence[str]) -> int:
    """`eval-main.py`: test the weights in TEST.WEIGHT (OUTPUT_DIR/best.pth); returns the exit code."""

    def work(cfg: CfgNode, _arguments: argparse.Namespace) -> None:
        from processor.series import evaluate

        evaluate(cfg)

    return _run(argv, "Test the weights in TEST.WEIGHT, by default OUTPUT_DIR/best.pth.", work)


def _run(argv: Sequence[str], about: str, work: Callable[[CfgNode, argparse.Namespace], None]) -> int:
    """[--config_file F] [--resume] [--overwrite] [KEY VALUE ...] -> the loaded config for `work`; the exit code."""

    def load_and_work() -> None:
        parser = CommandParser(about)
        parser.add_argument("--resume", action="store_true", help="training: continue the run in OUTPUT_DIR")
        parser.add_argument("--overwrite", action="store_true", help="training: discard the run in OUTPUT_DIR")
        arguments = parser.parse(argv)
        work(load_cfg(arguments.config_file, arguments.opts), arguments)

    return run_command(load_and_work)

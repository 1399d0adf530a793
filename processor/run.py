"""The two commands of the top level: train-main.py and eval-main.py.

torch and the rooms that need it are imported once the command line and the config are sound, so that a mistyped key is
answered at once.
"""

from collections.abc import Sequence

from configs import load_cfg
from configs.command import CommandParser, run_command


def train_main(argv: Sequence[str]) -> int:
    """`train-main.py`: train, test the best and the last epoch; returns the exit code."""
    return _run(argv, "Train TF-CLIP, then test the best and the last epoch.", training=True)


def eval_main(argv: Sequence[str]) -> int:
    """`eval-main.py`: test the weights in TEST.WEIGHT (OUTPUT_DIR/best.pth); returns the exit code."""
    return _run(argv, "Test the weights in TEST.WEIGHT, by default OUTPUT_DIR/best.pth.", training=False)


def _run(argv: Sequence[str], about: str, training: bool) -> int:
    """[--config_file F] [--resume] [--overwrite] [KEY VALUE ...] -> the exit code of a training or a test."""

    def work() -> None:
        parser = CommandParser(about)
        parser.add_argument("--resume", action="store_true", help="training: continue the run in OUTPUT_DIR")
        parser.add_argument("--overwrite", action="store_true", help="training: discard the run in OUTPUT_DIR")
        arguments = parser.parse(argv)
        cfg = load_cfg(arguments.config_file, arguments.opts)
        from processor import series

        if training:
            series.train(cfg, arguments.resume, arguments.overwrite)
        else:
            series.evaluate(cfg)

    return run_command(work)

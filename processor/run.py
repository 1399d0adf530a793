"""The two commands of the top level: train-main.py and eval-main.py.

torch and the rooms that need it are imported once the command line and the config are sound, so that a mistyped key is
answered at once.
"""

from argparse import SUPPRESS
from collections.abc import Sequence

from configs import load_cfg
from configs.command import CommandParser
from processor.launch import run_on_ranks


def train_main(argv: Sequence[str]) -> int:
    """`train-main.py`: train, test the best and the last epoch; returns the exit code."""
    return _run(argv, "Train TF-CLIP, then test the best and the last epoch.", training=True)


def eval_main(argv: Sequence[str]) -> int:
    """`eval-main.py`: test the weights in TEST.WEIGHT (OUTPUT_DIR/best.pth); returns the exit code."""
    return _run(argv, "Test the weights in TEST.WEIGHT, by default OUTPUT_DIR/best.pth.", training=False)


def _run(argv: Sequence[str], about: str, training: bool) -> int:
    """[--config_file F] [--resume [auto]] [--overwrite] [KEY VALUE ...] -> the exit code of a training or a test."""

    def work() -> None:
        parser = CommandParser(about)
        parser.add_argument(
            "--resume", action="store_true",
            help="training: continue the run in OUTPUT_DIR; '--resume auto' starts it where there is none yet",
        )  # fmt: skip
        parser.add_argument("--resume-auto", action="store_true", help=SUPPRESS)
        parser.add_argument("--overwrite", action="store_true", help="training: discard the run in OUTPUT_DIR")
        arguments = parser.parse(_join_auto(argv))
        cfg = load_cfg(arguments.config_file, arguments.opts)
        from processor import series

        if training:
            series.train(cfg, "auto" if arguments.resume_auto else arguments.resume, arguments.overwrite)
        else:
            series.evaluate(cfg)

    return run_on_ranks(work)


def _join_auto(argv: Sequence[str]) -> list[str]:
    """'--resume auto' as one word: argparse would take any KEY that follows --resume for its value."""
    joined: list[str] = []
    for text in argv:
        if text == "auto" and joined[-1:] == ["--resume"]:
            joined[-1] = "--resume-auto"
        else:
            joined.append("--resume-auto" if text == "--resume=auto" else text)
    return joined

"""One HTML page of a finished run: scores, curves, and what every query found.

python -m processor.report RUN [--out FILE] [KEY VALUE ...]

RUN is the OUTPUT_DIR of a training or of eval-main.py; the page is RUN/report/index.html unless --out names a file. KEY
VALUE pairs say where the data are and how to read them; they cannot change the test.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from configs import load_cfg
from configs.command import CommandParser, run_command
from utils.errors import InputError, MissingFileError

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    "DATASETS.ROOT_DIR", "DATASETS.PACK", "DATASETS.CACHE_DIR", "DATASETS.ON_BAD_FRAME", "DATASETS.BAD_FRAME_LIMIT",
    "DATASETS.OUTSIDE", "DATALOADER.NUM_WORKERS", "TEST.FRAMES_PER_BATCH",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Write the page of a run; returns the exit code."""

    def work() -> None:
        parser = CommandParser(
            "Write one HTML page of a finished run: scores, curves, and what every query found.", config="", keys=False,
            usage="python -m processor.report RUN [--out FILE] [KEY VALUE ...]",
        )  # fmt: skip
        parser.add_argument("--out", type=Path, help="the page; by default RUN/report/index.html")
        parser.add_argument(
            "run", nargs="?", type=Path, metavar="RUN", help="OUTPUT_DIR of a training or of eval-main.py"
        )
        parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="where the data are, e.g. DATASETS.ROOT_DIR D")
        arguments = parser.parse(argv)
        if arguments.run is None:
            parser.error("name RUN, the OUTPUT_DIR of a training or of eval-main.py")
        _check(arguments.run, arguments.out, arguments.opts)
        from processor.evaluation import write_page
        from processor.report.source import page_of_run
        from processor.run_folder import PAGE, check_writable

        out = arguments.out or arguments.run / PAGE
        check_writable(out.parent, "--out" if arguments.out else "RUN")
        write_page(out, page_of_run(arguments.run, arguments.opts))
        logger.info("wrote %s", out)

    return run_command(work)


def _check(run: Path, out: Path | None, opts: Sequence[str]) -> None:
    """Raise InputError for a folder that is none, and for keys that would make another test of it."""
    load_cfg(opts=opts)
    for key in opts[::2]:
        if key not in MAY_CHANGE:
            raise InputError(
                f"{key}: the page shows a test as it was; test anew with eval-main.py (keys that may be given: "
                f"{', '.join(MAY_CHANGE)})"
            )
    if not run.exists():
        raise MissingFileError(f"{run} does not exist; name the OUTPUT_DIR of a training or of eval-main.py")
    if not run.is_dir():
        raise InputError(f"{run} is a file; name the folder it lies in, the OUTPUT_DIR of a run")
    if out is not None and out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file in it")

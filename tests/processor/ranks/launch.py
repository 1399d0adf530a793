"""Start scripts as torchrun does, and read what the ranks said."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

DRIVER = Path(__file__).with_name("driver.py")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(processes: int, script: Path, *argv: object) -> list[str]:
    """The command line of a script in one process, or in several by torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(torchrun if processes > 1 else []), str(script), *map(str, argv)]


def start(processes: int, script: Path, *argv: object) -> subprocess.Popen:
    """The script on its way; stdout and stderr come together."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": ENVIRONMENT}
    return subprocess.Popen(command(processes, script, *argv), **options)


def finished(process: subprocess.Popen, code: int | None = 0) -> str:
    """What it said until its end; `code` None: it must have failed, with whatever code torchrun has."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code if code is not None else process.returncode != 0, said
    return said


def errors(said: str) -> list[str]:
    """The lines that report an error of ours; torchrun adds lines of its own."""
    return [line.split("\r")[-1].strip() for line in said.splitlines() if "error: " in line]

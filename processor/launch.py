"""How a command starts: in one process, or in the several that torchrun has started."""

import os
from collections.abc import Callable

from configs.command import run_command

_RANK_VARIABLES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}  # set by torchrun


def run_on_ranks(work: Callable[[], None]) -> int:
    """Run `work` as a command, joined with the other ranks where there are any -> exit code.

    torch is imported first only where there are others; a single process answers a mistyped key at once.
    """
    if not _RANK_VARIABLES <= os.environ.keys() or os.environ["WORLD_SIZE"] == "1":
        return run_command(work)
    from processor import distributed

    code = run_command(lambda: distributed.run_joined(work), distributed.may_report)
    if code:
        os._exit(code)  # an orderly end would wait for the other ranks
    return code

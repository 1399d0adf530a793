"""tqdm bars: updated all the time on a terminal, every ten seconds in a log."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

from utils.logger import is_muted


def progress(
    iterable: Iterable,
    title: str,
    unit: str,
    total: int | None = None,
    hidden: bool = False,
    initial: int = 0,
    form: str | None = None,
) -> tqdm:
    """A bar over `iterable` that vanishes when it is done; `total` where the iterable has no length.

    `initial` units were done before. `form` is tqdm's bar_format, where its own does not serve.
    """
    return tqdm(
        iterable,
        desc=title,
        unit=unit,
        total=total,
        initial=initial,
        bar_format=form,
        disable=hidden or is_muted(),
        leave=False,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )

"""tqdm bars: lively on a terminal, one line every ten seconds in a log."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable, title: str, unit: str) -> tqdm:
    """A bar over `iterable` that vanishes when it is done."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(iterable, desc=title, unit=unit, leave=False, mininterval=interval, dynamic_ncols=True)

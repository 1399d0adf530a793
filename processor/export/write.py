"""Writing an exported file that stays only when it computes what the model computes."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from processor.export.check import Run, TrackletBatch, largest_difference, latencies
from utils.errors import InputError
from utils.files import write_atomically
from utils.progress import progress


class Measured(NamedTuple):
    """What was found of a file."""

    difference: float  # largest distance to the model's feature, as a share of its length
    file_seconds: float  # of one batch
    model_seconds: float


def write_checked(
    path: Path,
    save: Callable[[Path], None],
    load: Callable[[Path], Run],
    reference: Run,
    batches: Sequence[TrackletBatch],
    timed: TrackletBatch,
    limit: float,
) -> Measured:
    """Let `save` write the file; it takes its place when `load` finds it within `limit` of the reference on `batches`.

    Raises InputError when it is not, or cannot be run; whatever had the name before stays then.
    """
    measured = []

    def write(temporary: Path) -> None:
        save(temporary)
        run = load(temporary)
        try:
            difference = largest_difference(run, reference, progress(batches, "check", "batch"))
        except RuntimeError as error:
            if "not implemented for 'Half'" not in str(error):
                raise
            raise InputError(
                f"torch cannot compute in half precision on this CPU ({error}), so the file cannot be checked: leave "
                "--half away, or export on another machine"
            ) from None
        if not difference <= limit:
            raise InputError(f"{path} is not kept: {_why(reference, batches, difference, limit)}")
        measured.append(Measured(difference, *latencies([run, reference], timed)))

    write_atomically(path, write)
    return measured[0]


def _why(reference: Run, batches: Sequence[TrackletBatch], difference: float, limit: float) -> str:
    if not np.isfinite(reference(batches[0])).all():
        return "the model's own features hold nan or inf, the weights are broken"
    if not np.isfinite(difference):
        return "its features hold nan or inf, which the model's do not (--half overflows beyond 65504)"
    return f"its features differ from the model's by {difference:.1e} of their length, more than {limit:.1e}"


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Within, torch's exporters and what they call give no warnings and no messages; they still raise their errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""How a parser takes faulty data: it raises one line, or reports every fault and reads the rest."""

from collections.abc import Callable

import pytest

from datasets.tracklet import Fault, RawSplits
from utils.errors import InputError


def refused(match: str, read: Callable, *arguments, **options) -> None:
    """`read` raises an InputError of one line that matches."""
    with pytest.raises(InputError, match=match) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)


def with_faults(parse: Callable[..., RawSplits], *arguments) -> tuple[list[Fault], RawSplits]:
    """What is reported, and what is read in spite of it."""
    faults: list[Fault] = []
    return faults, parse(*arguments, on_fault=faults.append)

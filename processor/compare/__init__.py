"""Differences between tested runs, with what chance alone would give: python -m processor.compare.

Others use `Row`, `load_row`, `check_comparable`, `compare`, `Difference` and `aligned`. They are imported when they are
first asked for, so that a mistyped command line is answered without torch.
"""

from importlib import import_module

_PLACES = {"Row": "runs", "load_row": "runs", "check_comparable": "runs", "compare": "differences"}
_PLACES |= {"Difference": "differences", "aligned": "table"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)

"""The course of a training as a picture: losses, scores, learning rate and seconds per epoch, from history.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loss.criterion import LOSS_TERMS
from utils.files import write_atomically
from utils.metrics import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {"id": "identity", "triplet": "triplet", "v2m": "video to memory", "frame_id": "frames", "total": "total"}
_SIZE, _DPI = (12.0, 8.0), 100  # inches, dots per inch
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by colour-blind readers too (Okabe and Ito)
_WIDE = 10  # of the largest to the smallest value, from which an axis is logarithmic
_FEW = 30  # epochs up to which each has a dot
_SHOWN = ("mAP", "mINP", "rank1", "rank5")  # of SCORES; those after Rank-5 lie at the upper edge

Points = tuple[list[float], list[float]]  # epochs, values


def save_curves(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the picture of `draw_curves` as PNG."""
    figure = draw_curves(history)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI))


def draw_curves(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Four panels over the epochs: losses by term, scores in percent, learning rate, seconds.

    Rows have the columns of history.csv, as numbers or as text; a cell that is empty or absent has no point. A loss
    term that is 0 in all epochs, as that of a part the model does not have, is left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    panels = losses, scores, rate, seconds = list(figure.subplots(2, 2).flat)
    last = max([1, *(float(row["epoch"]) for row in history)])
    edge = max(0.5, 0.02 * last)
    for axes in panels:
        axes.set(xlabel="epoch", xlim=(1 - edge, last + edge))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_prop_cycle(color=_COLOURS)
        axes.grid(alpha=0.3)
    for number, name in enumerate(LOSS_TERMS):
        points = _points(history, f"loss_{name}")
        if any(points[1]):
            colour = "black" if name == "total" else _COLOURS[number % len(_COLOURS)]
            _curve(losses, points, _TITLES.get(name, name), color=colour)
    losses.set(title="Losses; the total is the weighted sum of the terms", ylabel="mean of the epoch")
    _scale(losses)
    losses.legend()
    for name in _SHOWN:
        epochs, values = _points(history, name)
        if epochs:
            _curve(scores, (epochs, [100 * value for value in values]), SCORES[name])
    scores.set(title="Scores of the tests during training", ylabel="percent", ylim=(0, 102))
    if scores.lines:
        scores.legend(loc="lower right")
    else:
        scores.text(0.5, 0.5, "no test yet", ha="center", va="center", transform=scores.transAxes)
    _curve(rate, _points(history, "lr"), drawstyle="steps-mid")
    rate.set(title="Learning rate (SOLVER.BASE_LR and its schedule)")
    _scale(rate)
    _curve(seconds, _points(history, "seconds"))
    seconds.set(title="Time of an epoch without its test", ylabel="seconds")
    _from_zero(seconds)
    return figure


def _points(history: Sequence[Mapping[str, Any]], column: str) -> Points:
    rows = [row for row in history if row.get(column) not in (None, "")]
    return [float(row["epoch"]) for row in rows], [float(row[column]) for row in rows]


def _curve(axes: "Axes", points: Points, label: str | None = None, **style: Any) -> None:
    axes.plot(*points, marker="o" if len(points[0]) <= _FEW else None, markersize=4, label=label, **style)


def _scale(axes: "Axes") -> None:
    """A logarithmic axis where the values span more than one of ten; a 0 then lies below its lower edge."""
    values = [value for line in axes.lines for value in line.get_ydata() if value > 0]
    if values and max(values) >= _WIDE * min(values):
        axes.set_yscale("log", nonpositive="clip")
    else:
        _from_zero(axes)


def _from_zero(axes: "Axes") -> None:
    axes.set_ylim(0, 1.1 * max([1e-12, *(value for line in axes.lines for value in line.get_ydata())]))

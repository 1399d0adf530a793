"""The figure of a clip: its frames, the attention of the network's tokens over them, and that between the frames.

Colours count in even shares: 1 is what each token would get if all tokens got the same. The frames of a row share one
scale.

T frames, H, W pixels of a frame, h, w patches down and across, n colours.
"""

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from model.attention import AttentionMaps
from utils.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BYTES = 150_000  # of a picture, so that a page can hold several
_DPI = 100
_CELL, _FRAMES_WIDTH, _LEAST_WIDTH = 160, 1000, 620  # pixels: height of a frame; most for all of a row; of a picture
_MOST_FRAMES = 16  # shown; of longer clips evenly spread ones
_LEFT, _GAP, _BAR, _TICKS = 132, 4, 12, 58  # pixels: row names, between frames, a colour bar, its numbers
_TOP, _BOTTOM, _ROW_GAP, _NAME = 76, 12, 14, 66  # pixels: above, below and between the rows; height of a row's name
_MATRIX, _MATRIX_LEFT, _MATRIX_TOP = 236, 58, 60  # pixels: side of TMC's matrix, its labels to the left and above
_DIGIT, _LETTER = 8, 8.6  # pixels that a digit of a frame's number and a letter of the title need
_INK, _MUTED = "#202020", "#606060"
_TITLE_SIZE, _SIZE, _SMALL = 11, 9, 8  # points
_COLOURS, _OPAQUE = "inferno", (0.25, 0.8)  # over a grey frame: opacity where there is least and most attention
_STEPS = np.linspace(0, 1, 10)  # of the colours, shares of the largest attention
_GREYS = np.linspace(0.2, 1, 14)  # of the frames under them; not from black, for dark clothes under dark colours
_DECIMALS = {6: 1, 10: 0}  # frames up to which the cells of TMC's matrix hold numbers -> digits after the point


class Picture(NamedTuple):
    """A figure for a page or a file."""

    title: str
    note: str  # what the colours do not show: which frames, and how much attention the other tokens get
    png: bytes


class SeenClip(NamedTuple):
    """A clip of a tracklet as the network gets it, and its attention."""

    frames: NDArray[np.uint8]  # (T, H, W, 3)
    numbers: list[int]  # of each frame in its tracklet, from 1
    where: str  # clip and frames in words
    maps: AttentionMaps  # of this clip alone


class _Layout:
    """Where the parts of a figure lie, in pixels from its left and its top."""

    def __init__(self, clip: SeenClip, num_rows: int) -> None:
        count, (height, width) = len(clip.frames), clip.frames.shape[1:3]
        self.shown = sorted({round(place) for place in np.linspace(0, count - 1, min(count, _MOST_FRAMES))})
        scale = min(_CELL / height, (_FRAMES_WIDTH / len(self.shown) - _GAP) / width)
        self.cell = max(1, round(height * scale)), max(1, round(width * scale))  # of a frame
        self.step = self.cell[1] + _GAP  # from frame to frame
        self.pitch = max(self.cell[0], _NAME) + _ROW_GAP  # from row to row
        self.bar = _LEFT + len(self.shown) * self.step + 2
        self.head = self.bar + _BAR + _TICKS  # of TMC's matrix
        self.matrix = self.head + _MATRIX_LEFT
        bottom, right = _TOP + num_rows * self.pitch, self.head
        if clip.maps.frames is not None:
            bottom = max(bottom, _TOP + _MATRIX_TOP + _MATRIX)
            right = self.matrix + _MATRIX + _BAR + (_TICKS if _decimals(count) is None else 0)
        self.size = bottom + _BOTTOM, max(right, _LEAST_WIDTH)


def draw_picture(title: str, clip: SeenClip) -> Picture:
    """The figure of one clip: a column per frame, a row for the frames and for each token, TMC's matrix beside them."""
    maps, rows = clip.maps, _rows(clip.maps)
    layout = _Layout(clip, 1 + len(rows))
    canvas, (height, width), cell = _Canvas(*layout.size), clip.frames.shape[1:3], layout.cell
    canvas.text(_GAP, 8, _cut(printable(title), int(canvas.width / _LETTER)), fontsize=_TITLE_SIZE, weight="bold")
    sizes = f"{height} x {width} pixels, {maps.grid[0]} x {maps.grid[1]} patches of {maps.patch[0]} x {maps.patch[1]}"
    canvas.text(_GAP, 30, f"{clip.where}; {sizes}", color=_MUTED)
    canvas.text(_GAP, _TOP - 18, "frame of tracklet", color=_MUTED)
    for column in _named(clip.numbers, len(layout.shown), layout.step):
        left, number = _LEFT + column * layout.step + cell[1] / 2, clip.numbers[layout.shown[column]]
        canvas.text(left, _TOP - 18, str(number), ha="center", color=_MUTED)
    frames = np.stack([_resize(clip.frames[place], cell) for place in layout.shown])
    canvas.text(_GAP, _TOP + cell[0] / 2, "frames as the\nnetwork gets them", va="center")
    canvas.strip(frames, _LEFT, _TOP)
    grey = _GREYS[np.rint(frames.mean(axis=3) / 255 * (len(_GREYS) - 1)).astype(int)]
    for line, row in enumerate(rows, start=1):
        top = _TOP + line * layout.pitch
        largest = max(2.0, float(row.shares_Thw.max()))  # an even share is never bright
        canvas.text(_GAP, top + cell[0] / 2, row.name, va="center")
        canvas.strip(_coloured(_spread(row.shares_Thw[layout.shown], clip, cell) / largest, grey), _LEFT, top)
        canvas.bar(_coloured(_LEGEND, _GREYS[6]), largest, "times an even share", layout.bar, top, cell[0])
    if maps.frames is not None:
        canvas.text(layout.head, _TOP - 18, "TMC: attention between the frames, percent;\na row adds up to 100")
        canvas.matrix(100 * maps.frames[0].cpu().numpy(), clip.numbers, layout.matrix, _TOP + _MATRIX_TOP)
    note = "; ".join((f"{clip.where[:1].upper()}{clip.where[1:]}", *(row.note for row in rows)))
    return Picture(title, note, _png(canvas.figure, frames))


class _Row(NamedTuple):
    """A line of overlays."""

    name: str
    shares_Thw: NDArray[np.float32]  # attention of the patches, in even shares
    note: str  # where the rest of the attention goes


def _rows(maps: AttentionMaps) -> list[_Row]:
    """What there is to show of the only clip of `maps`."""
    itself = _percent(maps.class_row[0, :, 0])
    if maps.rolled_out:
        blocks = f"{maps.rolled_out} block{'s' if maps.rolled_out > 1 else ''}"
        name = f"class token:\nroll-out over\n{blocks}\n({itself} on itself)"
        note = f"class token, rolled out over {blocks}: {itself} on itself"
    else:
        name = f"attention pool:\nfrom the mean of\nall positions\n({itself} on the mean)"
        note = f"attention pool: {itself} on the mean of all positions, which asks"
    rows = [_Row(name, _shares(maps.class_row, maps.class_map), note)]
    if maps.memory_row is not None:
        on_class, itself = (_percent(maps.memory_row[0, :, place]) for place in (0, -1))
        name = f"memory token:\nattention in MD\n({on_class} on class,\n{itself} on itself)"
        note = f"memory token in MD: {on_class} on the class token, {itself} on itself"
        rows.append(_Row(name, _shares(maps.memory_row, maps.memory_map), note))
    return rows


def _shares(row: torch.Tensor, patches: torch.Tensor) -> NDArray[np.float32]:
    """Weights of the patches (T, h, w), times the number of tokens that share the attention."""
    return (patches[0] * row.shape[-1]).cpu().numpy()


def _percent(weights: torch.Tensor) -> str:
    return f"{100 * weights.mean():.0f} %"


def _decimals(count: int) -> int | None:
    """Digits after the point in the cells of a matrix of `count` frames; None: no numbers there."""
    return next((digits for most, digits in _DECIMALS.items() if count <= most), None)


def _named(numbers: Sequence[int], count: int, room: float) -> range:
    """Which of `count` places, each `room` pixels wide, can bear a frame's number without touching the next."""
    return range(0, count, math.ceil(_DIGIT * (len(str(max(numbers))) + 1) / room))


class _Canvas:
    """A figure in which things are placed in pixels from its left and its top."""

    def __init__(self, height: int, width: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: a test without pictures need not wait
        from matplotlib.figure import Figure

        self.height, self.width = height, width
        self.figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def text(self, left: float, top: float, text: str, **style) -> None:
        """Plain text; a dollar sign is one."""
        style = {"va": "top", "fontsize": _SIZE, "color": _INK, "parse_math": False} | style
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)

    def strip(self, frames: NDArray[np.uint8], left: int, top: int) -> None:
        """Frames (T, height, width, 3) beside each other, pixel by pixel."""
        spaced = np.pad(frames, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
        line = np.concatenate(list(spaced), axis=1)
        self.figure.figimage(line, left, self.height - top - len(line), origin="upper")

    def bar(self, colours: NDArray, largest: float, unit: str, left: float, top: float, height: float) -> None:
        """A legend of `colours` (n, 1, 3), from `largest` at the top down to 0."""
        axes = self._axes(left, top, _BAR, height)
        axes.imshow(colours, aspect="auto", extent=(0, 1, 0, largest))
        axes.set_xticks([])
        axes.yaxis.tick_right()
        axes.tick_params(labelsize=_SMALL, labelcolor=_INK, color=_MUTED, length=3)
        axes.locator_params(axis="y", nbins=max(1, min(4, height // 20)))
        axes.set_ylabel(unit if height > 120 else "even shares" if height > 66 else "", fontsize=_SMALL, color=_MUTED)
        axes.yaxis.set_label_position("right")

    def matrix(self, percent_TT: NDArray[np.float32], numbers: Sequence[int], left: float, top: float) -> None:
        """TMC's weights, with the numbers of the frames."""
        from matplotlib import colormaps

        count, decimals = len(numbers), _decimals(len(numbers))
        largest = max(float(percent_TT.max()), 200 / count)  # an even share is of middle darkness at most
        axes = self._axes(left, top, _MATRIX, _MATRIX)
        axes.imshow(percent_TT, cmap="Blues", vmin=0, vmax=largest)
        places = _named(numbers, count, _MATRIX / count)
        names = [str(numbers[place]) for place in places]
        axes.set_xticks(places, names)
        axes.set_yticks(places, names)
        axes.xaxis.tick_top()
        axes.tick_params(labelsize=_SIZE, labelcolor=_MUTED, length=0)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("to that of frame", fontsize=_SIZE, color=_INK)
        axes.set_ylabel("from the memory of frame", fontsize=_SIZE, color=_INK)
        if decimals is None:
            colours = colormaps["Blues"](_LEGEND)[..., :3]
            self.bar(colours, largest, "percent", left + _MATRIX + _GAP, top, _MATRIX)
            return
        for row, column in np.ndindex(count, count):
            value = percent_TT[row, column]
            colour = "white" if value > 0.6 * largest else _INK
            axes.text(column, row, f"{value:.{decimals}f}", ha="center", va="center", fontsize=_SMALL, color=colour)

    def _axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        box = left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height
        return self.figure.add_axes(box)


_LEGEND = np.linspace(1, 0, 256)[:, None]  # shares of the largest value, down a colour bar


def _coloured(shares: NDArray[np.floating], grey: NDArray[np.floating] | float) -> NDArray[np.uint8]:
    """Shares (...) of the largest attention, rounded to _STEPS, as colours over grey (...) in [0, 1]: (..., 3)."""
    from matplotlib import colormaps

    least, most = _OPAQUE
    shares = np.rint(shares * (len(_STEPS) - 1)) / (len(_STEPS) - 1)
    opacity, grey = (least + (most - least) * shares)[..., None], np.asarray(grey)[..., None]
    return ((opacity * colormaps[_COLOURS](shares)[..., :3] + (1 - opacity) * grey) * 255).round().astype(np.uint8)


def _spread(shares_Thw: NDArray[np.float32], clip: SeenClip, size: tuple[int, int]) -> NDArray[np.float32]:
    """At each pixel of a frame of `size` the value of the patch whose centre is nearest: (T, *size)."""
    nearest = []
    for axis in (0, 1):
        pixels = (np.arange(size[axis]) + 0.5) * clip.frames.shape[1 + axis] / size[axis]  # of the network's frame
        patches = np.floor((pixels - clip.maps.patch[axis] / 2) / clip.maps.stride[axis] + 0.5).astype(int)
        nearest.append(patches.clip(0, clip.maps.grid[axis] - 1))
    return shares_Thw[:, nearest[0]][:, :, nearest[1]]


def _resize(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _png(figure: "Figure", frames: NDArray[np.uint8]) -> bytes:
    """The figure with as many colours for the frames (T, ..., 3) in it as fit into _MOST_BYTES."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing")  # a name in a script that matplotlib's font lacks
        figure.savefig(drawn, format="png", dpi=_DPI)
    pixels = np.asarray(Image.open(drawn).convert("RGB"))
    for colours in (92, 64, 32):
        packed = io.BytesIO()
        _quantized(pixels, frames, colours).save(packed, "PNG", optimize=True)
        if packed.tell() <= _MOST_BYTES:
            break
    return packed.getvalue()


def _quantized(pixels_HW3: NDArray[np.uint8], frames: NDArray[np.uint8], colours: int) -> Image.Image:
    """An image in the colours that mean something and some of the frames; Pillow's own choice would blur the former."""
    from matplotlib import colormaps

    palette = [_coloured(_STEPS, grey) for grey in _GREYS]
    palette += [(255 * colormaps[name](np.linspace(0, 1, 12))[:, :3]).round() for name in ("Blues", "gray")]
    photos = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(colours, dither=Image.Dither.NONE)
    palette = np.concatenate([*palette, np.reshape(photos.getpalette(), (-1, 3))]).astype(np.uint8)
    nearest = cKDTree(palette).query(pixels_HW3.reshape(-1, 3))[1]
    packed = Image.fromarray(nearest.reshape(pixels_HW3.shape[:2]).astype(np.uint8), "P")
    packed.putpalette(palette.ravel().tolist())
    return packed

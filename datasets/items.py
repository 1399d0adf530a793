"""What training draws clips from: whole tracklets, chunks of them, or windows (DATASETS.TRAIN_ITEMS)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from datasets.tracklet import Tracklet
from utils.errors import InputError

_NUMBERS = {"tracklets": 0, "chunks": 1, "windows": 2}  # how many numbers follow each word


@dataclass(frozen=True)
class TrainItems:
    """How tracklets become training items, and how many frames an item has."""

    kind: str = "tracklets"  # 'tracklets' as they are, 'chunks' without overlap, 'windows' that may overlap
    length: int = 0  # frames of a chunk or window
    step: int = 0  # frames from the start of one window to the start of the next

    @classmethod
    def parse(cls, text: str) -> "TrainItems":
        """'tracklets', 'chunks LENGTH' or 'windows LENGTH STEP'; raises InputError for any other text."""
        kind, *numbers = text.split() or [""]
        valid = all(number.isdecimal() and len(number) < 10 and int(number) > 0 for number in numbers)
        if not valid or len(numbers) != _NUMBERS.get(kind):
            raise InputError(
                f"DATASETS.TRAIN_ITEMS '{text}' must be auto, tracklets, 'chunks LENGTH' or 'windows LENGTH STEP' "
                "(in frames)"
            )
        return cls(kind, *map(int, numbers))

    def __str__(self) -> str:
        return " ".join([self.kind, *(str(number) for number in (self.length, self.step) if number)])

    def cut(self, tracklets: Iterable[Tracklet]) -> list[Tracklet]:
        """The items of each tracklet, with its person and camera; every tracklet gives at least one.

        Chunks follow each other, the last one takes the rest (up to 2 * length - 1 frames); a tracklet shorter than two
        chunks stays whole. Windows start at range(0, n - length, step) of n frames, as in the authors' release, which
        leaves out the window that ends with the last frame; where that range is empty, the tracklet stays whole.
        """
        return [replace(t, frames=t.frames[start:end]) for t in tracklets for start, end in self._bounds(len(t.frames))]

    def _bounds(self, num_frames: int) -> Sequence[tuple[int, int]]:
        """(first frame, frame after the last) of each item of a tracklet."""
        if self.kind == "chunks":
            starts = [self.length * number for number in range(max(1, num_frames // self.length))]
            return list(zip(starts, [*starts[1:], num_frames]))
        if self.kind == "windows" and num_frames > self.length:
            return [(start, start + self.length) for start in range(0, num_frames - self.length, self.step)]
        return [(0, num_frames)]

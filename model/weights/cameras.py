"""Which row of a trained camera table belongs to which camera of the data at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.encoder import CLIPImageEncoder

_PUBLISHED = {6: "MARS", 15: "LS-VID", 2: "iLIDS-VID"}  # number of cameras -> data set


class Cameras(NamedTuple):
    """The cameras of a data set; cameras of two data sets are different ones, even if they have the same name."""

    dataset: str
    names: tuple[str, ...]  # of camera 0, 1, ...
    used: frozenset[int] | None = None  # camera numbers in the tracklets at hand; None: all


@dataclass(frozen=True)
class TrainedCameras:
    """The cameras of the rows of a table, and which of them training has seen."""

    dataset: str
    names: tuple[str, ...]  # of row 0, 1, ...
    trained: tuple[int, ...]  # rows of cameras in the training tracklets

    @classmethod
    def of_published(cls, size: int) -> "TrainedCameras":
        """For a file that names no data set: the one of the published weights with as many cameras."""
        names = tuple(str(camera) for camera in range(1, size + 1))
        return cls(_PUBLISHED.get(size, "an unknown data set"), names, tuple(range(size)))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "TrainedCameras":
        """The inverse of `state_dict`; raises ValueError for what that did not write."""
        if not isinstance(state, Mapping):
            raise ValueError(f"a {type(state).__name__}")
        try:
            dataset, names, trained = state["dataset"], tuple(state["names"]), tuple(state["trained"])
        except (LookupError, TypeError):
            raise ValueError("dataset, names or trained is missing") from None
        if not all(isinstance(name, str) for name in (dataset, *names)):
            raise ValueError("a name is no text")
        # Data that name no cameras have one all the same, number 0.
        if not all(isinstance(row, int) and 0 <= row < max(1, len(names)) for row in trained):
            raise ValueError(f"a trained camera is none of the {len(names)} named ones")
        return cls(dataset, names, trained)

    def state_dict(self) -> dict[str, Any]:
        """Plain Python for a checkpoint."""
        return asdict(self)

    def rows_for(self, here: Cameras) -> list[int | None]:
        """The row of each camera at hand, None for one that training has not seen."""
        if here.dataset != self.dataset:
            return [None] * len(here.names)
        row_of = {self.names[row]: row for row in self.trained if self.names[row]}
        return [row_of.get(name) for name in here.names]


@dataclass(frozen=True)
class CameraFit:
    """How the cameras of the data use a trained table in a test."""

    rows: Sequence[int | None]  # of each camera of the data; None: training has not seen it
    trained: Sequence[int]  # rows of cameras that training has seen
    unseen: str  # MODEL.SIE_UNSEEN
    used: frozenset[int] | None = None  # camera numbers in the tracklets at hand; None: all

    @property
    def num_unseen(self) -> int:
        """How many of the used cameras training has not seen."""
        return sum(row is None for camid, row in enumerate(self.rows) if self.used is None or camid in self.used)

    @property
    def gives_nothing(self) -> bool:
        """Whether no camera of the data gets an embedding."""
        return self.unseen == "off" and all(row is None for row in self.rows)

    @property
    def exact(self) -> bool:
        """Whether each camera has the row of its own number."""
        return list(self.rows) == list(range(len(self.rows)))

    def describe(self) -> str:
        """One line for the log."""
        count = len(self.rows) if self.used is None else len(self.used)
        instead = "no embedding" if self.unseen == "off" else f"the mean of the {len(self.trained)} trained ones"
        return f"{self.num_unseen} of {count} cameras were not trained on and get {instead} (MODEL.SIE_UNSEEN)"

    def apply(self, encoder: CLIPImageEncoder, table: Tensor) -> None:
        """Give the encoder an empty table of this shape, and say which row belongs to each camera."""
        encoder.camera_embed = nn.Parameter(torch.empty_like(table))
        encoder.map_cameras(self.rows, self.trained, self.unseen)

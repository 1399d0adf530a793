"""The records of every data set: a tracklet, what a parser reads, what a run gets, what is known of the set."""

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from datasets.bad_frames import BadFrames
from utils.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracklet:
    """One person seen by one camera over consecutive frames."""

    frames: tuple[str, ...]  # image paths in temporal order, at least one
    pid: int  # train: label 0..C-1; test and parsers: the data set's own id (0: distractor)
    camid: int  # 0-based

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"a tracklet of person {self.pid}, camera {self.camid} has no frames")


@dataclass(frozen=True)
class Fault:
    """Something wrong with one row of a list, one tracklet or one frame."""

    message: str  # one line naming the file and the row, and what was expected
    frames: tuple[str, ...] = ()  # paths of the frames that are to be left out because of it
    root: str = ""  # RawSplits.root of the set, below which the frames lie
    split: str = ""  # 'train', 'query', 'gallery', 'val'; empty: not known, or not of one split
    blocks: bool = True  # whether a run must not start with it


OnFault = Callable[[Fault], None]


def raise_or_warn(fault: Fault) -> None:
    """The `on_fault` of a run: raise InputError for a fault that blocks it, log any other."""
    if fault.blocks:
        raise InputError(fault.message)
    logger.warning("%s", fault.message)


@dataclass(frozen=True)
class RawSplits:
    """What a parser reads: whole tracklets under the data set's own ids, which train and test share."""

    root: str  # folder below which all frames lie
    train: Sequence[Tracklet]
    query: Sequence[Tracklet]
    gallery: Sequence[Tracklet]  # without the queries
    cameras: tuple[str, ...]  # name of camera 0, 1, ...; empty: the data name no cameras
    gallery_includes_query: bool
    persons: Mapping[int, str] = field(default_factory=dict)  # id -> name, where the ids are not the data set's own
    val_query: Sequence[Tracklet] = ()  # the data set's own validation part
    val_gallery: Sequence[Tracklet] = ()

    def person(self, pid: int) -> str:
        """The name of a person as the data set has it."""
        return self.persons.get(pid, str(pid))


@dataclass(frozen=True)
class ReIDSplits:
    """Training, query and gallery tracklets; `gallery` holds no query."""

    train: tuple[Tracklet, ...]  # training items, whole tracklets or parts of them
    query: tuple[Tracklet, ...]
    gallery: tuple[Tracklet, ...]
    num_classes: int  # training identities (C)
    num_cameras: int  # the data set's official count (K); 0: the data name no cameras
    gallery_includes_query: bool  # what the data set's protocol ranks against
    val_query: tuple[Tracklet, ...] = ()  # to choose an epoch without the test set; ids of the data set
    val_gallery: tuple[Tracklet, ...] = ()  # without the validation queries
    root: str = ""  # folder below which all frames lie
    train_persons: tuple[str, ...] = ()  # name of label 0, 1, ...
    persons: Mapping[int, str] = field(default_factory=dict)  # test id -> name, where ids are not the data set's own
    cameras: tuple[str, ...] = ()  # name of camera 0, 1, ...
    validation_source: str = ""  # where the validation part comes from
    left_out: str = ""  # what DATASETS.EXCLUDE took away, in words
    train_items: str = "tracklets"  # what `train` holds, as DATASETS.TRAIN_ITEMS names it
    pack: str = ""  # the one file that holds all frames (datasets.frames.store); empty: each has a file of its own
    bad_frames: BadFrames | None = field(default=None, compare=False)  # None: an unreadable frame is an error

    def summary(self) -> str:
        """A table of identities, tracklets, frames and cameras per split, one line each."""
        rows = {"train": self.train, "query": self.query, "gallery": self.gallery}
        if self.val_query:
            rows |= {"val query": self.val_query, "val gallery": self.val_gallery}
        lines = [f"{'split':<12}{'ids':>8}{'tracklets':>12}{'frames':>12}{'cameras':>10}"]
        for name, tracklets in rows.items():
            ids, count, frames, cameras = count_tracklets(tracklets)
            lines.append(f"{name:<12}{ids:>8,}{count:>12,}{frames:>12,}{cameras:>10}")
        if self.train_items != "tracklets":
            lines.append(f"train is cut into {self.train_items} (DATASETS.TRAIN_ITEMS); frames count in each item")
        return "\n".join(lines)

    def person(self, pid: int) -> str:
        """The name of a person of the test or validation part."""
        return self.persons.get(pid, str(pid))

    def camera(self, camid: int) -> str:
        """The name of a camera; '-' where the data name none."""
        return self.cameras[camid] if self.cameras else "-"

    def names(self) -> dict:
        """What the run's numbers mean: person of each label and test id, name of each camera; for JSON."""
        tested = sorted({t.pid for t in (*self.query, *self.gallery)})
        return {
            "train_labels": dict(enumerate(self.train_persons)),
            "test_ids": {pid: self.person(pid) for pid in tested} if self.persons else {},
            "cameras": dict(enumerate(self.cameras)),
        }


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set by its name; `datasets.registry` lists all of them."""

    name: str  # as its authors write it
    parse: Callable[..., RawSplits]  # parse(root, on_fault=..., further options of this set)
    short_name: str = ""  # another name that users write
    official: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # split -> identities, tracklets
    official_test: tuple[int, int] | None = None  # queries and ranked gallery tracklets of the published protocol
    paper: Mapping[str, float] = field(default_factory=dict)  # score -> percent, of TF-CLIP in the paper
    num_splits: int = 1  # train/test splits that DATASETS.SPLIT chooses from
    train_items: str = "tracklets"  # the authors' training items, as DATASETS.TRAIN_ITEMS names them
    distractor: int | None = None  # the id that stands for nobody
    may_number_twice: bool = False  # train and test may both count their persons from the same number on
    junk: str | tuple[str, ...] | None = None  # how the names of images begin that no list has to name; None: unknown
    spare: tuple[str, ...] | None = None  # folders of images that no run reads; None: other images are not counted

    @property
    def options(self) -> list[str]:
        """The options of the parser that belong to this data set alone."""
        return list(inspect.signature(self.parse).parameters)[2:]


def count_tracklets(tracklets: Sequence[Tracklet]) -> tuple[int, int, int, int]:
    """(identities, tracklets, frames, cameras)."""
    frames = sum(len(t.frames) for t in tracklets)
    return len({t.pid for t in tracklets}), len(tracklets), frames, len({t.camid for t in tracklets})


def below(root: str, frame: str) -> str:
    """`frame` as a path below `root`, with forward slashes on every system."""
    prefix = root.rstrip(os.sep) + os.sep
    inside = frame[len(prefix) :] if root and frame.startswith(prefix) else frame
    return inside if os.sep == "/" else PurePath(inside).as_posix()

"""Lists of frames to leave out: written by datasets.check, obeyed by DATASETS.EXCLUDE.

A list is a CSV file with the columns split, frame, reason: split is train, query, gallery, val or empty (all of them),
frame a path below the data set's folder.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from datasets.regular import read_regular
from datasets.tracklet import Fault, OnFault, RawSplits, Tracklet, below, raise_or_warn
from utils.errors import InputError, MissingFileError
from utils.files import save_csv

SPLITS = ("train", "query", "gallery", "val")
_COLUMNS = ["split", "frame", "reason"]
_PARTS = {"train": "train", "query": "query", "gallery": "gallery", "val_query": "val", "val_gallery": "val"}


class Exclusions:
    """The frames of a list; an empty one excludes nothing."""

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        """`entries` are (split or '', frame path below the root)."""
        self.entries = set(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def hold(self, split: str, frame: str) -> bool:
        """Whether `frame`, a path below the root, is left out of `split`."""
        return (split, frame) in self.entries or ("", frame) in self.entries

    def cover(self, fault: Fault) -> bool:
        """Whether all frames of `fault` are left out, so that a run may pass over it."""
        splits = [fault.split] if fault.split else ["", *SPLITS]
        names = [below(fault.root, frame) for frame in fault.frames]
        return bool(names) and all(any(self.hold(split, name) for split in splits) for name in names)

    def apply(self, raw: RawSplits) -> RawSplits:
        """The splits without the frames of the list; a tracklet without frames is gone."""
        if not self.entries:
            return raw
        kept = {name: self._keep(getattr(raw, name), split, raw.root) for name, split in _PARTS.items()}
        return replace(raw, **kept)

    def describe(self, whole: RawSplits, kept: RawSplits) -> str:
        """What the list took away, in one line, and how many of its rows name no frame of a sound tracklet."""
        if not self.entries:
            return ""
        parts, frames, used = [], 0, set()
        for name, split in _PARTS.items():
            before, after = getattr(whole, name), getattr(kept, name)
            frames += sum(len(t.frames) for t in before) - sum(len(t.frames) for t in after)
            if len(after) < len(before):
                parts.append(f"{len(before) - len(after)} {name.replace('_', ' ')} tracklets gone")
            here = {below(whole.root, frame) for t in before for frame in t.frames}
            used |= {entry for entry in self.entries if entry[0] in ("", split) and entry[1] in here}
        if unused := len(self.entries) - len(used):
            parts.append(f"{unused} of its {len(self.entries)} rows name no frame of a sound tracklet")
        return f"{frames} frames left out" + (f" ({', '.join(parts)})" if parts else "")

    def _keep(self, tracklets: Sequence[Tracklet], split: str, root: str) -> tuple[Tracklet, ...]:
        kept = []
        for t in tracklets:
            frames = tuple(frame for frame in t.frames if not self.hold(split, below(root, frame)))
            if frames:
                kept.append(t if len(frames) == len(t.frames) else replace(t, frames=frames))
        return tuple(kept)


def unless_excluded(exclusions: Exclusions) -> OnFault:
    """The `on_fault` of a run that leaves frames out: a fault whose frames are all left out is passed over."""

    def on_fault(fault: Fault) -> None:
        if not exclusions.cover(fault):
            raise_or_warn(fault)

    return on_fault


def read_exclusions(path: str) -> Exclusions:
    """The list at `path`, an empty text meaning none; raises MissingFileError / InputError naming file and row."""
    if not path:
        return Exclusions()
    try:
        rows = read_rows(path)
    except (FileNotFoundError, NotADirectoryError):
        line = f"DATASETS.EXCLUDE {path} does not exist; datasets.check --fix-list writes such a file"
        raise MissingFileError(line) from None
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no UTF-8, or a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"DATASETS.EXCLUDE {path} cannot be read as a CSV file ({reason})") from None
    if not rows or rows[0][:2] != _COLUMNS[:2]:
        raise InputError(f"DATASETS.EXCLUDE {path} needs the columns {','.join(_COLUMNS)} in its first row")
    entries = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) < 2 or not row[1] or row[0] not in ("", *SPLITS):
            expected = f"a split (one of {', '.join(SPLITS)}, or empty) and a frame"
            raise InputError(f"DATASETS.EXCLUDE {path} row {number}: expected {expected}, found {','.join(row)!r}")
        entries.append((row[0], row[1]))
    return Exclusions(entries)


def read_rows(path: str) -> list[list[str]]:
    """The cells of a CSV file, the header first; raises OSError, ValueError or csv.Error for what is none."""
    return list(csv.reader(io.StringIO(read_regular(path).decode("utf-8-sig"), newline="")))


def write_exclusions(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write a list of (split, frame path below the root, reason); raises UnicodeEncodeError for a name not in UTF-8."""
    save_csv(path, _COLUMNS, rows)

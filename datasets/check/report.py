"""The report of a check: table, notes and problems as lines of text."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets.check.base import Frames, Problem, counted, first_of, split_frames, split_tracklets
from datasets.check.frames import odd_frames
from datasets.exclusion import Exclusions
from datasets.frames import REMARKS, OpenedFrame
from datasets.tracklet import Fault, RawSplits, Tracklet, below, count_tracklets

_SHOWN = 10  # problems of a kind that are listed unless --all is given
_NAMES = 5  # in a note
Official = Mapping[str, tuple[int, int]]  # split -> identities, tracklets


def table(raw: RawSplits, official: Official) -> list[str]:
    """Identities, tracklets, frames and cameras of every split, beside the official counts."""
    head = f"{'split':<10}{'ids':>8}{'tracklets':>12}{'frames':>12}{'cameras':>10}"
    lines = [head + (f"{'official ids':>15}{'tracklets':>12}" if official else "")]
    for split, tracklets in split_tracklets(raw).items():
        if split == "val" and not tracklets:
            continue
        ids, count, frames, cameras = count_tracklets(tracklets)
        line = f"{split:<10}{ids:>8,}{count:>12,}{frames:>12,}{cameras if raw.cameras else '-':>10}"
        lines.append(line + (f"{official[split][0]:>15,}{official[split][1]:>12,}" if split in official else ""))
    return lines


def other_counts(raw: RawSplits, official: Official) -> list[str]:
    """A note where the counts are not the official ones."""
    tracklets = split_tracklets(raw)
    other = [split for split, counts in official.items() if count_tracklets(tracklets[split])[:2] != counts]
    if not other:
        return []
    return [f"ids or tracklets of {', '.join(other)} are not the official ones: a cut, or another version"]


def short_identities(raw: RawSplits, items: Sequence[Tracklet], per_identity: int) -> list[str]:
    """A note on identities with fewer training items than a batch takes of each."""
    counts = Counter(t.pid for t in items)
    short = [raw.person(pid) for pid, count in sorted(counts.items()) if count < per_identity]
    if not short:
        return []
    return [
        f"{len(short):,} of {len(counts):,} identities have fewer than {per_identity} training items "
        f"(DATALOADER.NUM_INSTANCE), which are drawn with replacement: {first_of(short, _NAMES)}"
    ]


def odd_shapes(root: str, frames: Frames, opened: Mapping[str, OpenedFrame]) -> list[str]:
    """A note for each split whose share of frames far from a person's shape is tolerated."""
    return [
        f"{len(odd):,} of {len(frames[split]):,} {f'{split} frames'.lstrip()} are far from a person's shape "
        f"(a problem above 1 %): {first_of([below(root, path) for path in odd], _NAMES)}"
        for split, odd in odd_frames(frames, opened, tolerated=True).items()
    ]


def remark_notes(root: str, frames: Frames, opened: Mapping[str, OpenedFrame]) -> list[str]:
    """A note for each kind of frames that training shows otherwise than other programs do."""
    paths = list(dict.fromkeys(path for paths in frames.values() for path in paths))
    notes = []
    for remark in REMARKS:
        found = [below(root, path) for path in paths if remark in opened[path].remarks]
        if found:
            notes.append(f"{len(found):,} of {counted(len(paths), 'frame')} {remark}: {first_of(found, 1)}")
    return notes


def unused_note(root: str, unused: Sequence[str]) -> list[str]:
    """A note on image files below the root that no training and no test reads."""
    if not unused:
        return []
    are = "is" if len(unused) == 1 else "are"
    return [f"{counted(len(unused), 'image file')} below {root} {are} not used: {first_of(unused, 3)}"]


def exclusion_notes(
    wholes: Sequence[RawSplits], faults: Sequence[Fault], exclusions: Exclusions, several: bool
) -> list[str]:
    """Notes on what DATASETS.EXCLUDE leaves out of the splits that are checked, and on its rows that match no frame.

    In a set of `several` splits a row matches whatever split it names: a frame may be in train of one and in gallery of
    another.
    """
    if not exclusions.entries:
        return []
    root = wholes[0].root
    parts = [part for raw in wholes for part in split_frames(raw).items()]
    named = {(split, below(root, path)) for split, paths in parts for path in paths}
    faulty = {below(fault.root, path): exclusions.cover(fault) for fault in faults for path in fault.frames}
    every = {name for _, name in named} | faulty.keys()
    left_out = {name for split, name in named if exclusions.hold(split, name)}
    left_out |= {name for name, covered in faulty.items() if covered}
    unmatched = [
        name
        for split, name in sorted(exclusions.entries - named)
        if name not in (every if several or not split else faulty)
    ]
    notes = [f"DATASETS.EXCLUDE leaves out {len(left_out):,} of {len(every):,} frames"]
    if unmatched:
        number = counted(len(unmatched), "row")
        notes.append(f"{number} of DATASETS.EXCLUDE without a frame: {first_of(unmatched, _NAMES)}")
    return notes


def fix_lines(path: Path, rows: Sequence[tuple[str, str, str]], unsolved: Sequence[Problem]) -> list[str]:
    """What was written for DATASETS.EXCLUDE, and the problems that remain with it."""
    lines = [f"{path} written: leaves out {counted(len(rows), 'frame')} as DATASETS.EXCLUDE {path}"]
    if unsolved:
        lines.append(f"{counted(len(unsolved), 'problem')} cannot be left out and must be mended:")
        lines += problem_lines(unsolved, show_all=False)
    return lines


def problem_lines(problems: Iterable[Problem], show_all: bool) -> list[str]:
    """The problems by kind: the number of each kind, and the first ten or all of them."""
    texts: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        texts[problem.kind].append(problem.text)
    lines = []
    for kind, found in texts.items():
        shown = found if show_all else found[:_SHOWN]
        lines += [f"{kind}: {len(found):,}", *(f"  {text}" for text in shown)]
        if len(shown) < len(found):
            lines.append(f"  and {len(found) - len(shown):,} more (--all names them)")
    return lines

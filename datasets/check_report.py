"""The report of a check: table, notes and problems as lines of text."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from datasets.check_problems import Problem, counted, is_tolerable, odd_frames, split_frames, split_tracklets
from datasets.exclusion import Exclusions, below
from datasets.frame_check import OpenedFrame
from datasets.tracklet import Fault, RawSplits, count_tracklets, cut_into_chunks

_SHOWN = 10  # problems of a kind that are named
_FEW = 5  # names in a note
Official = Mapping[str, tuple[int, int]]  # split -> identities, tracklets


def table(raw: RawSplits, official: Official) -> list[str]:
    """Identities, tracklets, frames and cameras of every split, beside the official counts."""
    head = f"{'split':<10}{'ids':>8}{'tracklets':>12}{'frames':>12}{'cameras':>10}"
    lines = [head + (f"{'official ids':>15}{'tracklets':>12}" if official else "")]
    for split, tracklets in split_tracklets(raw).items():
        if split == "val" and not tracklets:
            continue
        ids, count, frames, cameras = count_tracklets(tracklets)
        line = f"{split:<10}{ids:>8,}{count:>12,}{frames:>12,}{cameras:>10}"
        lines.append(line + (f"{official[split][0]:>15,}{official[split][1]:>12,}" if split in official else ""))
    return lines


def other_counts(raw: RawSplits, official: Official) -> list[str]:
    """A note where the counts are not the official ones."""
    tracklets = split_tracklets(raw)
    other = [split for split, counts in official.items() if count_tracklets(tracklets[split])[:2] != counts]
    if not other:
        return []
    return [f"ids or tracklets of {', '.join(other)} are not the official ones: a cut, or another version"]


def short_identities(raw: RawSplits, per_identity: int) -> list[str]:
    """A note on identities with fewer training items than a batch takes of each."""
    items = Counter(t.pid for t in cut_into_chunks(raw.train, raw.train_chunk))
    short = [raw.person(pid) for pid, count in sorted(items.items()) if count < per_identity]
    if not short:
        return []
    return [
        f"{len(short):,} of {len(items):,} identities have fewer than {per_identity} training tracklets "
        f"(DATALOADER.NUM_INSTANCE), which are drawn with replacement: {_first(short)}"
    ]


def odd_shapes(raw: RawSplits, opened: Mapping[str, OpenedFrame]) -> list[str]:
    """A note for every split with a few frames that are far from a person's shape."""
    frames = split_frames(raw)
    return [
        f"{len(odd):,} of {len(frames[split]):,} {split} frames are far from a person's shape (a problem above 1 %): "
        + _first([below(raw.root, path) for path in odd])
        for split, odd in odd_frames(frames, opened).items()
        if odd and is_tolerable(odd, frames[split])
    ]


def exclusion_notes(whole: RawSplits, kept: RawSplits, faults: Sequence[Fault], exclusions: Exclusions) -> list[str]:
    """Notes on what DATASETS.EXCLUDE leaves out, and on rows of it that match no frame."""
    if not exclusions.entries:
        return []
    named = [(split, below(whole.root, path)) for split, paths in split_frames(whole).items() for path in paths]
    faulty = [[below(fault.root, path) for path in fault.frames] for fault in faults]
    covered = [names for names, fault in zip(faulty, faults) if exclusions.cover(fault)]
    total = len(named) + sum(map(len, faulty))
    left_out = len(named) - sum(map(len, split_frames(kept).values())) + sum(map(len, covered))
    known = {*named, *(("", name) for _, name in named)}
    names = {name for names in faulty for name in names}
    idle = [name for split, name in sorted(exclusions.entries) if (split, name) not in known and name not in names]
    notes = [f"DATASETS.EXCLUDE leaves out {left_out:,} of {total:,} frames"]
    if idle:
        notes.append(f"{len(idle):,} rows of DATASETS.EXCLUDE match no frame: {_first(idle)}")
    return notes


def fix_lines(path: Path, rows: Sequence[tuple[str, str, str]], incurable: Sequence[Problem]) -> list[str]:
    """What was written for DATASETS.EXCLUDE, and what remains with it."""
    lines = [f"{path} written: leaves out {counted(len(rows), 'frame')} as DATASETS.EXCLUDE {path}"]
    if incurable:
        lines.append(f"{counted(len(incurable), 'problem')} cannot be left out and must be mended:")
        lines += problem_lines(incurable, show_all=False)
    return lines


def problem_lines(problems: Iterable[Problem], show_all: bool) -> list[str]:
    """The problems by kind, each kind with its count, the first ten of it or all."""
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


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")

"""What is wrong between the lists of a data set, its folders and the protocol of its training and test."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from datasets.check.base import (
    Disk,
    Frames,
    Problem,
    counted,
    frames_to_check,
    split_frames,
    split_tracklets,
)
from datasets.check.folders import ImageFolders
from datasets.check.frames import NO_FILE, frame_problems
from datasets.frames import OpenedFrame
from datasets.matching import have_true_match
from datasets.tracklet import Fault, RawSplits, below
from datasets.validation import hold_out
from utils.errors import InputError, printable

FAULTY_ROWS = "faults of the lists"
NO_TRACKLET = "splits without tracklets"
FEW_IDENTITIES = "too few persons to train with"
LEAK = "persons in train and in test"
VAL_LEAK = "persons of the validation part in train or in test"
NO_MATCH = "queries without a true match in the ranked gallery"
SAME_PICTURE = "the same picture in two splits"
UNLISTED = "image folders with files that no list names"

TESTS = ("query", "gallery")
# What must not share a person, and the first of which can do without it.
PARTS_APART = (("train", TESTS), ("train", ("val",)), ("val", TESTS))


@dataclass(frozen=True)
class Ranking:
    """What the test compares a query with."""

    includes_query: bool  # queries are gallery items too
    camera_filter: bool  # the query's person in the query's camera is left out
    distractor: int | None  # the id that stands for nobody
    own_numbers: tuple[tuple[str, Sequence[str]], ...] = ()  # those of PARTS_APART whose equal ids are two persons


@dataclass(frozen=True)
class Training:
    """What a training takes of the persons."""

    identities: int  # persons in a batch
    val_fraction: float = 0.0  # share of them held out where the set has no validation part; 0: none
    seed: int = 0  # that draws them


def row_problems(faults: Sequence[Fault], several: bool) -> list[Problem]:
    """What a parser found wrong in the lists; a set of `several` splits leaves faulty frames out of all of them."""

    def leave_out(fault: Fault) -> tuple[tuple[str, str], ...]:
        return tuple(("" if several else fault.split, below(fault.root, path)) for path in fault.frames)

    return [Problem(FAULTY_ROWS, fault.message, leave_out(fault)) for fault in faults if not _is_remark(fault)]


def row_notes(faults: Sequence[Fault]) -> list[str]:
    """What a parser remarks on parts that no training and no test reads."""
    return [fault.message for fault in faults if _is_remark(fault)]


def _is_remark(fault: Fault) -> bool:
    return fault.split == "val" and not fault.blocks


def folder_problems(
    root: str, folders: ImageFolders, faults: Sequence[Fault], junk: str | tuple[str, ...] | None
) -> list[Problem]:
    """Empty folders that no fault of the lists tells of, and images that no list names.

    Images whose names begin with `junk`, or with one of several texts, need no list; with None no image does.
    """
    top = os.path.abspath(root)
    told = "".join(f" {fault.message}" for fault in faults)
    empty = {below(top, folder): folder for folder in sorted(folders.stray)}
    problems = [
        Problem(NO_FILE, f"{name} holds no file")
        for name, folder in empty.items()
        if not any(f" {printable(path)} " in told for path in (folder, os.path.join(root, name), name))
    ]
    for folder, paths in folders.unnamed.items() if junk is not None else ():
        names = [os.path.basename(path) for path in paths]
        names = [name for name in names if not name.startswith(junk)]
        if names:
            few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            text = f"{below(top, folder)} holds {counted(len(names), 'image file')} that no list names: {few}"
            problems.append(Problem(UNLISTED, text))
    return problems


def find_problems(
    splits: Mapping[str, RawSplits], several: bool, disk: Disk, ranking: Ranking, training: Training
) -> list[Problem]:
    """All problems of `splits` (number of a split -> its tracklets), whose frames were all opened.

    A set of `several` splits leaves a faulty frame out of all of them. Problems of the protocol name their splits
    where there is more than one.
    """
    raws = list(splits.values())
    found: dict[Problem, list[str]] = defaultdict(list)
    for number, raw in splits.items():
        for problem in _protocol_problems(raw, disk, ranking, training):
            found[problem].append(number)
    return [
        *frame_problems(raws[0].root, frames_to_check(raws, several), disk),
        *(_with_splits(problem, numbers, len(raws)) for problem, numbers in found.items()),
    ]


def _with_splits(problem: Problem, numbers: Sequence[str], count: int) -> Problem:
    if count == 1:
        return problem
    where = "all splits" if len(numbers) == count else f"split{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
    return replace(problem, text=f"{where}: {problem.text}")


def _protocol_problems(raw: RawSplits, disk: Disk, ranking: Ranking, training: Training) -> list[Problem]:
    return [
        *_empty_splits(raw),
        *_few_identities(raw, training),
        *_leaks(raw, ranking),
        *_unmatched_queries(raw, ranking),
        *_same_pictures(raw.root, split_frames(raw), disk.frames),
    ]


def _few_identities(raw: RawSplits, training: Training) -> list[Problem]:
    """Fewer persons than a batch has, which a training refuses."""
    train, remaining = raw.train, ""
    if not train:
        return []
    if training.val_fraction and not raw.val_query:
        try:
            train = hold_out(train, training.val_fraction, training.seed).train
            remaining = ", without those held out for SOLVER.SELECT_BY val"
        except InputError as error:
            return [Problem(FEW_IDENTITIES, error.line)]
    count = len({t.pid for t in train})
    if count >= training.identities:
        return []
    text = (
        f"train has {counted(count, 'person')}{remaining}, a batch takes {training.identities} (SOLVER.IMS_PER_BATCH / "
        "DATALOADER.NUM_INSTANCE): lower SOLVER.IMS_PER_BATCH"
    )
    return [Problem(FEW_IDENTITIES, text)]


def _empty_splits(raw: RawSplits) -> list[Problem]:
    tracklets = split_tracklets(raw)
    return [
        Problem(NO_TRACKLET, f"{split} has no tracklet")
        for split in ("train", "query", "gallery")
        if not tracklets[split] and not (split == "gallery" and raw.gallery_includes_query)
    ]


def shared_ids(raw: RawSplits, split: str, others: Sequence[str]) -> set[int]:
    """Ids that `split` and the `others` together have both."""
    tracklets = split_tracklets(raw)
    return {t.pid for t in tracklets[split]} & {t.pid for other in others for t in tracklets[other]}


def _leaks(raw: RawSplits, ranking: Ranking) -> list[Problem]:
    """Persons of two parts that must share none."""
    tracklets = split_tracklets(raw)
    pids = {split: {t.pid for t in items} for split, items in tracklets.items()}
    problems = []
    for split, others in PARTS_APART:
        shared = set() if (split, others) in ranking.own_numbers else shared_ids(raw, split, others)
        kind = VAL_LEAK if "val" in (split, *others) else LEAK
        for pid in sorted(shared - {ranking.distractor}):
            mine = [t for t in tracklets[split] if t.pid == pid]
            places = " and ".join(other for other in others if pid in pids[other])
            text = f"person {raw.person(pid)} is in {split} ({counted(len(mine), 'tracklet')}) and in {places}"
            rows = tuple(dict.fromkeys((split, below(raw.root, frame)) for t in mine for frame in t.frames))
            problems.append(Problem(kind, text, rows))
    return problems


def _unmatched_queries(raw: RawSplits, ranking: Ranking) -> list[Problem]:
    problems = []
    matched = have_true_match(raw.query, raw.gallery, ranking.includes_query, ranking.camera_filter)
    for t in (t for t, found in zip(raw.query, matched) if not found):
        camera = f", camera {raw.cameras[t.camid]}" if raw.cameras else ""
        names = [below(raw.root, frame) for frame in t.frames]
        text = f"person {raw.person(t.pid)}{camera}, {counted(len(names), 'frame')} from {names[0]}"
        problems.append(Problem(NO_MATCH, text, tuple(("query", name) for name in names)))
    return problems


def _same_pictures(root: str, frames: Frames, opened: Mapping[str, OpenedFrame]) -> list[Problem]:
    """Files of equal content in two splits; the copy named first can be left out."""
    first: dict[str, dict[bytes, str]] = {"query": {}, "gallery": {}, "val": {}}
    for split, files in first.items():
        for path in frames[split]:
            files.setdefault(opened[path].digest, path)
    problems = []
    for split, others in (("train", (*TESTS, "val")), ("val", TESTS), ("gallery", ("query",))):
        for path in frames[split]:
            digest = opened[path].digest
            other = next((other for other in others if digest in first[other]), None)
            if digest and other:
                name, twin = below(root, path), below(root, first[other][digest])
                problems.append(Problem(SAME_PICTURE, f"{split} {name} is {other} {twin}", ((split, name),)))
    return problems

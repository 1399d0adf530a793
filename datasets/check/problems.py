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
    first_of,
    frames_to_check,
    split_frames,
    split_tracklets,
)
from datasets.check.folders import ImageFolders
from datasets.check.frames import NO_FILE, frame_problems
from datasets.frames import OpenedFrame
from datasets.matching import have_true_match
from datasets.tracklet import Fault, RawSplits, Tracklet, below
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
# A split and the splits it must not share a person with; the shared person can be left out of the first.
PARTS_APART = (("train", TESTS), ("train", ("val",)), ("val", TESTS))


@dataclass(frozen=True)
class Rules:
    """What the test and the training of a config do with the persons of a data set."""

    includes_query: bool  # queries are gallery items too
    camera_filter: bool  # gallery items of the query's person and camera are left out
    distractor: int | None  # the id that stands for nobody
    own_numbers: tuple[tuple[str, Sequence[str]], ...] = ()  # those of PARTS_APART in which equal ids are two persons
    batch_identities: int = 1  # persons in a training batch
    val_fraction: float = 0.0  # share of the persons held out where the set has no validation part; 0: none
    seed: int = 0  # of the draw of these persons


def row_problems(faults: Sequence[Fault], several: bool) -> list[Problem]:
    """What a parser found wrong in the lists; a set of `several` splits leaves faulty frames out of all of them."""
    problems = []
    for fault in faults:
        if not _is_note(fault):
            rows = [("" if several else fault.split, below(fault.root, path)) for path in fault.frames]
            problems.append(Problem(FAULTY_ROWS, fault.message, tuple(rows)))
    return problems


def row_notes(faults: Sequence[Fault]) -> list[str]:
    """What a parser found wrong in a validation part, where it stops no run."""
    return [fault.message for fault in faults if _is_note(fault)]


def _is_note(fault: Fault) -> bool:
    return fault.split == "val" and not fault.blocks


def folder_problems(
    root: str, folders: ImageFolders, faults: Sequence[Fault], junk: str | tuple[str, ...] | None
) -> list[Problem]:
    """Empty folders that no fault of the lists names, and images that no list names.

    An image needs no list when its name begins with `junk`, or with one of several texts; with None no image needs one.
    """
    top = os.path.abspath(root)
    messages = "".join(f" {fault.message}" for fault in faults)
    problems = []
    for folder in sorted(folders.empty_other):
        name = below(top, folder)
        if not any(f" {printable(path)} " in messages for path in (folder, os.path.join(root, name), name)):
            problems.append(Problem(NO_FILE, f"{name} holds no file"))
    for folder, paths in folders.unlisted.items() if junk is not None else ():
        names = [name for name in map(os.path.basename, paths) if not name.startswith(junk)]
        if names:
            number = counted(len(names), "image file")
            text = f"{below(top, folder)} holds {number} that no list names: {first_of(names, 3)}"
            problems.append(Problem(UNLISTED, text))
    return problems


def find_problems(splits: Mapping[str, RawSplits], several: bool, disk: Disk, rules: Rules) -> list[Problem]:
    """All problems of `splits` (number of a split -> its tracklets), whose frames were all opened.

    A set of `several` splits leaves a faulty frame out of all of them. Where more than one split is checked, problems
    of the protocol name those in which they occur.
    """
    raws = list(splits.values())
    numbers_of: dict[Problem, list[str]] = defaultdict(list)
    for number, raw in splits.items():
        for problem in _protocol_problems(raw, disk, rules):
            numbers_of[problem].append(number)
    problems = frame_problems(raws[0].root, frames_to_check(raws, several), disk)
    for problem, numbers in numbers_of.items():
        where = f"split{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if len(numbers) < len(raws) else "all splits"
        problems.append(replace(problem, text=f"{where}: {problem.text}") if len(raws) > 1 else problem)
    return problems


def _protocol_problems(raw: RawSplits, disk: Disk, rules: Rules) -> list[Problem]:
    """What is wrong with one split as a whole."""
    return [
        *_empty_splits(raw),
        *_few_identities(raw, rules),
        *_leaks(raw, rules),
        *_unmatched_queries(raw, rules),
        *_same_pictures(raw.root, split_frames(raw), disk.frames),
    ]


def _few_identities(raw: RawSplits, rules: Rules) -> list[Problem]:
    """Fewer persons than a batch takes, with which no training starts."""
    train, remaining = raw.train, ""
    if rules.val_fraction and not raw.val_query and train:
        try:
            train = hold_out(train, rules.val_fraction, rules.seed).train
            remaining = ", without those held out for SOLVER.SELECT_BY val"
        except InputError as error:
            return [Problem(FEW_IDENTITIES, error.line)]
    count = len({t.pid for t in train})
    if not train or count >= rules.batch_identities:
        return []
    text = (
        f"train has {counted(count, 'person')}{remaining}, a batch takes {rules.batch_identities} "
        "(SOLVER.IMS_PER_BATCH / DATALOADER.NUM_INSTANCE): lower SOLVER.IMS_PER_BATCH"
    )
    return [Problem(FEW_IDENTITIES, text)]


def _empty_splits(raw: RawSplits) -> list[Problem]:
    tracklets = split_tracklets(raw)
    return [
        Problem(NO_TRACKLET, f"{split} has no tracklet")
        for split in ("train", "query", "gallery")
        if not tracklets[split] and not (split == "gallery" and raw.gallery_includes_query)
    ]


def _ids(tracklets: Mapping[str, Sequence[Tracklet]]) -> dict[str, set[int]]:
    return {split: {t.pid for t in items} for split, items in tracklets.items()}


def _shared(ids: Mapping[str, set[int]], split: str, others: Sequence[str]) -> set[int]:
    return ids[split] & set().union(*(ids[other] for other in others))


def parts_with_own_numbers(raw: RawSplits) -> tuple[tuple[str, Sequence[str]], ...]:
    """Those of PARTS_APART that share most of their ids, because each counts its persons from the same number on.

    When only a few ids are shared, that is a fault of the lists.
    """
    ids = _ids(split_tracklets(raw))
    return tuple(part for part in PARTS_APART if 2 * len(_shared(ids, *part)) > len(ids[part[0]]))


def _leaks(raw: RawSplits, rules: Rules) -> list[Problem]:
    """Persons of two parts that must share none."""
    tracklets = split_tracklets(raw)
    ids = _ids(tracklets)
    problems = []
    for split, others in (part for part in PARTS_APART if part not in rules.own_numbers):
        kind = VAL_LEAK if "val" in (split, *others) else LEAK
        for pid in sorted(_shared(ids, split, others) - {rules.distractor}):
            mine = [t for t in tracklets[split] if t.pid == pid]
            places = " and ".join(other for other in others if pid in ids[other])
            text = f"person {raw.person(pid)} is in {split} ({counted(len(mine), 'tracklet')}) and in {places}"
            rows = tuple(dict.fromkeys((split, below(raw.root, frame)) for t in mine for frame in t.frames))
            problems.append(Problem(kind, text, rows))
    return problems


def _unmatched_queries(raw: RawSplits, rules: Rules) -> list[Problem]:
    problems = []
    matched = have_true_match(raw.query, raw.gallery, rules.includes_query, rules.camera_filter)
    for t in (t for t, is_matched in zip(raw.query, matched) if not is_matched):
        camera = f", camera {raw.cameras[t.camid]}" if raw.cameras else ""
        names = [below(raw.root, frame) for frame in t.frames]
        text = f"person {raw.person(t.pid)}{camera}, {counted(len(names), 'frame')} from {names[0]}"
        problems.append(Problem(NO_MATCH, text, tuple(("query", name) for name in names)))
    return problems


def _same_pictures(root: str, frames: Frames, opened: Mapping[str, OpenedFrame]) -> list[Problem]:
    """Files of equal content in two splits; the one of train, else of val, else of gallery can be left out."""
    file_with: dict[str, dict[bytes, str]] = {"query": {}, "gallery": {}, "val": {}}  # split -> digest -> first path
    for split, files in file_with.items():
        for path in frames[split]:
            files.setdefault(opened[path].digest, path)
    problems = []
    for split, others in (("train", (*TESTS, "val")), ("val", TESTS), ("gallery", ("query",))):
        for path in frames[split]:
            digest = opened[path].digest
            other = next((other for other in others if digest in file_with[other]), None)
            if digest and other:
                name, twin = below(root, path), below(root, file_with[other][digest])
                problems.append(Problem(SAME_PICTURE, f"{split} {name} is {other} {twin}", ((split, name),)))
    return problems

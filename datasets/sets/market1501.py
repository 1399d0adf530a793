"""Market-1501 (Zheng et al., ICCV 2015): three folders of images -> tracklets of one frame each."""

import os
import re
from pathlib import Path

from datasets.sets.find_root import best_layout, find_root, images_in
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, Tracklet, raise_or_warn

NUM_CAMERAS = 6
_JUNK, _DISTRACTOR = -1, 0
_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# Person, camera, sequence, frame and number of the box in the frame: 0002_c1s1_000451_03.jpg
_NAME = re.compile(r"(-1|[0-9]{4})_c([0-9]{1,9})s[0-9]+_[0-9]+_[0-9]+(\.[A-Za-z]+)+")
_HOW_TO_GET = "Market-1501 is distributed by its authors (Zheng et al., ICCV 2015) as Market-1501-v15.09.15.zip"


def parse_market1501(root: str | Path, on_fault: OnFault = raise_or_warn) -> RawSplits:
    """Read the folders into 12,936 training, 3,368 query and 15,913 gallery tracklets of one frame (official files).

    `root` is the folder that holds bounding_box_train/, query/ and bounding_box_test/, or its parent. Junk (person -1)
    is dropped, person 0 stays in the gallery as distractors; queries are not in the gallery. Files that are no images,
    such as Thumbs.db, and hidden ones are ignored; nothing is written. Images whose names are wrong go to
    `on_fault`, by default an InputError (a ValueError) naming the file, and are left out. Raises MissingFileError (a
    FileNotFoundError) naming the first missing folder, InputError for one that cannot be read.
    """
    # Without `query`: a folder of other data beside the set may have one too.
    own_folders = (_FOLDERS["train"], _FOLDERS["gallery"])
    folder, _ = find_root(Path(root), "Market1501", [own_folders], _HOW_TO_GET)
    best_layout(folder, [tuple(_FOLDERS.values())], _HOW_TO_GET, looked_in=folder)
    return RawSplits(
        root=str(folder),
        train=_tracklets(folder, "train", on_fault),
        query=_tracklets(folder, "query", on_fault),
        gallery=_tracklets(folder, "gallery", on_fault),
        cameras=tuple(str(camera) for camera in range(1, NUM_CAMERAS + 1)),
        gallery_includes_query=False,
    )


def _tracklets(root: Path, split: str, on_fault: OnFault) -> list[Tracklet]:
    """One tracklet for each image of the split, in the order of the names, without junk."""
    folder = str(root / _FOLDERS[split])
    tracklets = []
    for name in images_in(folder):
        path = folder + os.sep + name
        fields = _NAME.fullmatch(name)
        pid, camera = (int(fields[1]), int(fields[2])) if fields else (0, 0)
        if wrong := _wrong(split, pid, camera) if fields else "expected a name like 0002_c1s1_000451_03.jpg":
            on_fault(Fault(f"{path}: {wrong}", (path,), str(root), split))
        elif pid != _JUNK:
            tracklets.append(Tracklet((path,), pid, camera - 1))
    return tracklets


def _wrong(split: str, pid: int, camera: int) -> str:
    """Why an image of this person and camera cannot be in the split; empty if it can."""
    if not 1 <= camera <= NUM_CAMERAS:
        return f"camera {camera} is not one of 1..{NUM_CAMERAS}"
    if split == "query" and pid == _JUNK:
        return f"a query cannot be junk (person {_JUNK})"
    if split != "gallery" and pid == _DISTRACTOR:
        return f"person {_DISTRACTOR} is a distractor, no one to {'find' if split == 'query' else 'train with'}"
    return ""


MARKET1501 = DataSet(
    name="Market1501",
    parse=parse_market1501,
    short_name="Market",
    official={"train": (751, 12_936), "query": (750, 3_368), "gallery": (751, 15_913)},
    official_test=(3_368, 15_913),
    paper={"mAP": 90.4, "rank1": 95.7},
    distractor=0,
    junk=("-1_", "."),
)

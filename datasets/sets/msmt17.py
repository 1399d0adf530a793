"""MSMT17 (Wei et al., CVPR 2018): four lists of images -> tracklets of one frame each."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from datasets.sets.find_root import best_layout, find_root, is_below, present, read_lines
from datasets.tracklet import DataSet, Fault, OnFault, RawSplits, Tracklet, raise_or_warn
from utils.errors import InputError

NUM_CAMERAS = 15
_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
# Image folders of training and test: in MSMT17_V1, and in MSMT17_V2, where faces are masked.
_IMAGE_FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
# Added to the persons of the test lists, which are numbered from 0 again; in the lists they have up to four digits.
_FIRST_TEST_PERSON = 10_000
_HOW_TO_GET = "MSMT17 is handed out by its authors (Wei et al., CVPR 2018) on request, as MSMT17_V1 or MSMT17_V2"


@dataclass(frozen=True)
class _Part:
    """The training or the test part: its lists share their person numbers and a folder of images."""

    root: Path  # of the data set
    folder: str  # of the images, below the root
    first_person: int  # id of person 0 of the lists
    on_fault: OnFault
    places: dict[str, str] = field(default_factory=dict)  # image -> list and number of the first line that names it
    people: dict[str, tuple[int, str]] = field(default_factory=dict)  # folder of a person -> the person, first line

    def tracklets(self, name: str, split: str) -> list[Tracklet]:
        """One tracklet for each valid line of the list `name` that does not contradict an earlier line or list."""
        tracklets = []
        for number, line in enumerate(read_lines(self.root / name, "images"), start=1):
            place = f"{self.root / name} line {number}"
            image, _, text = line.rpartition(" ")
            if not (is_below(image) and re.fullmatch("[0-9]{1,4}", text)):
                expected = "an image below its folder, a space and a person (a whole number of at most four digits)"
                self.on_fault(Fault(f"{place}: expected {expected}, found {line!r:.80}"))
                continue
            path, person = os.path.join(self.root, self.folder, *image.split("/")), int(text)
            problem, frames = "", (path,)
            try:
                camera = _camera(image)
            except InputError as error:
                problem = str(error)
            else:
                owner, first_of_owner = self.people.setdefault(os.path.dirname(image) or image, (person, place))
                if (first := self.places.setdefault(image, place)) != place:
                    # The fault names no frames: to exclude the image would exclude the first line that names it too.
                    problem, frames = f"image {image!r} is named in {first} already", ()
                elif owner != person:
                    problem = f"{image!r} is of person {person}, its folder of person {owner} ({first_of_owner})"
            if problem:
                self.on_fault(Fault(f"{place}: {problem}", frames, str(self.root), split))
            else:
                tracklets.append(Tracklet((path,), self.first_person + person, camera - 1))
        return tracklets


def parse_msmt17(root: str | Path, on_fault: OnFault = raise_or_warn) -> RawSplits:
    """Read the lists into 32,621 training, 11,659 query and 82,161 gallery tracklets of one frame (official files).

    `root` is the folder that holds the lists list_{train,val,query,gallery}.txt and the images (train/ and test/ in
    MSMT17_V1, mask_train_v2/ and mask_test_v2/ in MSMT17_V2), or its parent. The validation list is added to the
    training, as in the literature: it shows the same 1,041 people. The training lists and the test lists both number
    their people from 0, and equal numbers are different people: test ids are therefore the list's numbers plus 10,000,
    and `persons` maps them back. Queries are not in the gallery. Nothing is written, and the image files are not
    looked for. Lines that are wrong go to `on_fault`, by default an InputError (a ValueError) naming list and line,
    and are left out. Raises MissingFileError (a FileNotFoundError) naming the first missing list or folder, InputError
    for a list that cannot be read at all.
    """
    folder, _ = find_root(Path(root), "MSMT17", [_LISTS], _HOW_TO_GET)
    train_folder, test_folder = _image_folders(folder)
    train_list, val_list, query_list, gallery_list = _LISTS
    training = _Part(folder, train_folder, 0, on_fault)
    test = _Part(folder, test_folder, _FIRST_TEST_PERSON, on_fault)
    query, gallery = test.tracklets(query_list, "query"), test.tracklets(gallery_list, "gallery")
    return RawSplits(
        root=str(folder),
        train=[*training.tracklets(train_list, "train"), *training.tracklets(val_list, "train")],
        query=query,
        gallery=gallery,
        cameras=tuple(str(camera) for camera in range(1, NUM_CAMERAS + 1)),
        gallery_includes_query=False,
        persons={t.pid: str(t.pid - _FIRST_TEST_PERSON) for t in (*query, *gallery)},
    )


def _image_folders(root: Path) -> tuple[str, str]:
    """Names of the folders of training and of test images; raises MissingFileError, InputError for both versions."""
    whole = [pair for pair in _IMAGE_FOLDERS if len(present(root, pair)) == len(pair)]
    if len(whole) > 1:
        names = ", ".join(name for pair in whole for name in pair)
        raise InputError(
            f"{root} holds the images of MSMT17_V1 and of MSMT17_V2 ({names}); move those of one elsewhere"
        )
    return _IMAGE_FOLDERS[best_layout(root, _IMAGE_FOLDERS, _HOW_TO_GET, looked_in=root)]


def _camera(image: str) -> int:
    """The camera (1-based) that the name of an image gives: 0000/0000_000_01_0303morning_0008_0.jpg is of camera 1."""
    name = image.rpartition("/")[2]
    fields = name.split("_", 3)
    if len(fields) < 4:
        raise InputError(f"image {name!r} needs four fields parted by '_', the third of them the camera")
    if not re.fullmatch("[0-9]{1,2}", fields[2]) or not 1 <= int(fields[2]) <= NUM_CAMERAS:
        raise InputError(f"image {name!r}: camera {fields[2]!r}, its third field, is not one of 1..{NUM_CAMERAS}")
    return int(fields[2])


MSMT17 = DataSet(
    name="MSMT17",
    parse=parse_msmt17,
    short_name="MSMT",
    official={"train": (1_041, 32_621), "query": (3_060, 11_659), "gallery": (3_060, 82_161)},
    official_test=(11_659, 82_161),
    paper={"mAP": 73.9, "rank1": 88.5},
    junk=".",
)

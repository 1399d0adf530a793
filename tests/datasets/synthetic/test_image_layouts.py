"""The synthetic set as Market-1501 and MSMT17: its files as distributed, read without the project's parsers."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.synthetic.command import write_set
from datasets.synthetic.walks import plan_tracklets, render
from tests.datasets.synthetic.test_synthetic_layouts import PLAN, TINY, TWO_CAMERAS, apart, drawn_frames


def write(root: Path, layout: str) -> Path:
    """Write a set, whose counts say how many images there are."""
    counts = write_set(root, layout, workers=0, **TINY, **TWO_CAMERAS)
    assert counts["train_images"] + counts["test_images"] == len(list(root.rglob("*.jpg")))
    assert counts["queries"] == sum(walk.is_query for walk in plan_tracklets(PLAN))
    return root


def frames_by_view(*pids: int) -> Counter:
    """(person, camera) -> frames of all its walks."""
    views: Counter = Counter()
    for walk in plan_tracklets(PLAN):
        if not pids or walk.pid in pids:
            views[walk.pid, walk.camera] += len(render(walk, PLAN))
    return views


def assert_drawn(path: Path, frame: np.ndarray) -> None:
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and apart(np.asarray(picture), frame) < 5


def test_market_names_tell_person_and_camera_and_queries_lie_apart(tmp_path):
    root = write(tmp_path / "set", "market1501")
    assert {path.name for path in root.iterdir()} == {
        "bounding_box_train", "query", "bounding_box_test", "synthetic.json"
    }  # fmt: skip
    views: dict[str, Counter] = {}
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        names = [path.name for path in (root / folder).iterdir()]
        fields = [re.fullmatch(r"(-1|\d{4})_c(\d)s([1-6])_(\d{6})_(\d{2})\.jpg", name) for name in names]
        assert all(fields) and {field[5] for field in fields} == {"00" if folder == "query" else "01"}
        views[folder] = Counter((int(field[1]), int(field[2])) for field in fields)
    assert views["bounding_box_train"] == frames_by_view(1, 2, 3)
    # One query of each test person in each camera; junk and distractors lie with the gallery.
    assert views["query"] == {(pid, camera): 1 for pid in (4, 5, 6) for camera in (1, 2)}
    assert views["bounding_box_test"] == frames_by_view(-1, 0, 4, 5, 6) - views["query"]
    assert_drawn(root / "query" / "0005_c2s1_001001_00.jpg", drawn_frames(5, 2, 1)[0])
    assert_drawn(root / "bounding_box_test" / "0005_c2s1_001002_01.jpg", drawn_frames(5, 2, 1)[1])
    assert_drawn(root / "bounding_box_train" / "0003_c1s2_002001_01.jpg", drawn_frames(3, 1, 2)[0])


def test_msmt_lists_name_every_image_once_and_count_people_from_0_twice(tmp_path):
    root = write(tmp_path / "set", "msmt17")
    assert {path.name for path in root.iterdir()} == {
        "mask_train_v2", "mask_test_v2", "list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt",
        "synthetic.json",
    }  # fmt: skip
    listed: dict[str, list[tuple[str, int]]] = {}
    for name in ("train", "val", "query", "gallery"):
        text = (root / f"list_{name}.txt").read_text()
        assert text.endswith("\n")
        listed[name] = [(line.split(" ")[0], int(line.split(" ")[1])) for line in text.splitlines()]
    for folder, parts in (("mask_train_v2", ("train", "val")), ("mask_test_v2", ("query", "gallery"))):
        named = [image for part in parts for image, _ in listed[part]]
        on_disk = [path.relative_to(root / folder).as_posix() for path in (root / folder).rglob("*.jpg")]
        assert sorted(named) == sorted(on_disk) and len(set(named)) == len(named)
        views: Counter = Counter()
        for image, label in (line for part in parts for line in listed[part]):
            fields = re.fullmatch(r"(\d{4})/\1_\d{3}_(\d{2})_0303(?:morning|noon|afternoon)_\d{4}_\d\.jpg", image)
            assert fields and int(fields[1]) == label
            views[label, int(fields[2])] += 1
        first = 1 if folder == "mask_train_v2" else 4
        of_people = frames_by_view(first, first + 1, first + 2)
        assert views == {(pid - first, camera): count for (pid, camera), count in of_people.items()}
    assert len(listed["val"]) == (len(listed["train"]) + len(listed["val"])) // 10
    queries = [(label, int(image.split("_")[2])) for image, label in listed["query"]]
    assert sorted(queries) == [(label, camera) for label in range(3) for camera in (1, 2)]
    image = next(image for image, label in listed["query"] if label == 1 and "_02_" in image)
    assert_drawn(root / "mask_test_v2" / image, drawn_frames(5, 2, 1)[0])

"""The synthetic set as data that users bring: folders, full pictures and videos, read without the project's parsers."""

import csv
from collections import defaultdict
from pathlib import Path

import av
import numpy as np
from PIL import Image

from datasets.synthetic.command import main, write_set
from datasets.synthetic.walks import plan_tracklets, render
from tests.datasets.synthetic.test_synthetic_layouts import (
    PLAN,
    TINY,
    TINY_WORDS,
    TWO_CAMERAS,
    apart,
    contents,
    drawn_frames,
)

CAMERAS = {"north gate": 1, "south gate": 2}


def rows(root: Path, header: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The rows of manifest.csv by split, person, camera and tracklet."""
    assert (root / "manifest.csv").read_text().splitlines()[0] == header
    tracklets = defaultdict(list)
    with (root / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            tracklets[row["split"], row["person"], row["camera"], row["tracklet"]].append(row)
    return tracklets


def assert_own_data(tracklets: dict[tuple[str, ...], int]) -> None:
    """Check (split, person, camera, tracklet) -> number of frames against the plan."""
    known = {key: count for key, count in tracklets.items() if key[1].startswith("person-")}
    others = {key: count for key, count in tracklets.items() if key not in known}
    expected = {}
    for walk in plan_tracklets(PLAN):
        if walk.pid > 0:
            split = "train" if walk.pid <= 3 else "query" if walk.number == 1 else "gallery"
            camera = next(name for name, number in CAMERAS.items() if number == walk.camera)
            expected[split, f"person-{walk.pid:03d}", camera, f"{walk.number:04d}"] = len(render(walk, PLAN))
    assert known == expected
    distractors = [len(render(walk, PLAN)) for walk in plan_tracklets(PLAN) if walk.pid == 0]
    assert sorted(others.values()) == sorted(distractors)
    assert {key[0] for key in others} == {"gallery"} and len({key[1] for key in others}) == len(distractors)


def assert_drawn(picture: np.ndarray, row: dict[str, str], height: int, width: int, drawn: np.ndarray) -> None:
    """The box of a row lies in its picture, larger than itself, and holds the drawn frame as a codec keeps it."""
    x, y, w, h = (int(row[part]) for part in "xywh")
    assert (h, w) == (48, 24) and 0 <= x <= width - w and 0 <= y <= height - h
    assert picture.shape == (height, width, 3)
    assert apart(picture[y : y + h, x : x + w], drawn) < 5


def named_frames(key: tuple[str, ...]) -> list[np.ndarray]:
    _, person, camera, tracklet = key
    return drawn_frames(int(person.removeprefix("person-")), CAMERAS[camera], int(tracklet))


def test_folder_has_split_person_camera_and_tracklet(tmp_path):
    root = tmp_path / "set"
    write_set(root, "folder", workers=0, **TINY, **TWO_CAMERAS)
    tracklets = {}
    for path in root.glob("*/*/*"):
        split, person, place = path.relative_to(root).parts
        camera, tracklet = place.rsplit("_", 1)
        names = sorted(frame.name for frame in path.iterdir())
        assert names == [f"{number:06d}.jpg" for number in range(1, len(names) + 1)]
        tracklets[split, person, camera, tracklet] = len(names)
    assert_own_data(tracklets)
    for key in (key for key in tracklets if key[1].startswith("person-")):
        with Image.open(root / key[0] / key[1] / f"{key[2]}_{key[3]}" / "000002.jpg") as image:
            assert apart(np.asarray(image), named_frames(key)[1]) < 5


def test_manifest_boxes_hold_the_drawn_frames(tmp_path):
    root = tmp_path / "set"
    write_set(root, "manifest", workers=0, **TINY, **TWO_CAMERAS)
    tracklets = rows(root, "split,person,camera,tracklet,frame,x,y,w,h")
    assert_own_data({key: len(part) for key, part in tracklets.items()})
    named = [row["frame"] for part in tracklets.values() for row in part]
    assert sorted(named) == sorted(name for name in contents(root) if name.startswith("pictures/"))
    for key in (key for key in tracklets if key[1].startswith("person-")):
        for row, drawn in zip(tracklets[key], named_frames(key)):
            with Image.open(root / row["frame"]) as image:
                assert_drawn(np.asarray(image), row, 72, 72, drawn)
    places = {(part[0]["x"], part[0]["y"]) for part in tracklets.values()}
    assert len(places) > len(tracklets) // 2


def test_video_frames_hold_the_drawn_frames(tmp_path):
    root = tmp_path / "set"
    write_set(root, "video", workers=0, **TINY, **TWO_CAMERAS)
    tracklets = rows(root, "split,person,camera,tracklet,video,frame,x,y,w,h")
    assert_own_data({key: len(part) for key, part in tracklets.items()})
    assert sorted(path.name for path in (root / "videos").iterdir()) == ["north gate.avi", "south gate.avi"]
    for camera in CAMERAS:
        with av.open(str(root / "videos" / f"{camera}.avi")) as video:
            assert video.streams.video[0].average_rate == 25
            pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        mine = {key: part for key, part in tracklets.items() if key[2] == camera}
        numbers = [[int(row["frame"]) for row in part] for part in mine.values()]
        assert {row["video"] for part in mine.values() for row in part} == {f"videos/{camera}.avi"}
        assert sum(numbers, []) == list(range(len(pictures)))
        for key in (key for key in mine if key[1].startswith("person-")):
            for row, drawn in zip(mine[key], named_frames(key)):
                assert_drawn(pictures[int(row["frame"])], row, 72, 72, drawn)


def test_a_failing_encoder_is_one_line(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise av.FFmpegError(28, "no space left")

    monkeypatch.setattr("datasets.synthetic.own_layouts.av.open", fail)
    root = tmp_path / "set"
    assert main(["--root", str(root), "--layout", "video", *TINY_WORDS]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: cannot write {root}: no space left"
    assert not list(tmp_path.iterdir())

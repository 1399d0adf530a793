"""Footage and boxes through the data set 'video' against the same people as cropped JPEGs in the layout of MARS."""

import csv
import json

import numpy as np
import pytest

from processor.run import eval_main, train_main
from tests.conftest import SCORES, SHARED, metrics, tiny_options
from tests.datasets.own.plaza_video import write_plaza_csv

pytestmark = pytest.mark.skipif(not (SHARED / "data" / "plaza-video").is_dir(), reason="the footage is not here")
# The cameras of the two sets have other names and numbers, and other queries are gallery items.
ALIKE = {"MODEL__SIE_CAMERA": False, "TEST__GALLERY_INCLUDES_QUERY": True, "TEST__SAVE_FEATURES": True}


def argv(name, root, out, **overrides):
    keys = {"INPUT__SIZE_TRAIN": "[64, 32]", "INPUT__SIZE_TEST": "[64, 32]", "SOLVER__MAX_EPOCHS": 2} | overrides
    return tiny_options(DATASETS__NAMES=name, DATASETS__ROOT_DIR=root, OUTPUT_DIR=out, **keys)


def features(folder):
    with np.load(folder / "features.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def trained_on_video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plaza")
    table = write_plaza_csv(SHARED, folder)
    assert train_main(argv("video", table, folder / "run", DATASETS__CACHE_DIR=folder / "cache", **ALIKE)) == 0
    return folder


def test_features_of_the_video_are_those_of_the_cropped_jpegs(trained_on_video, tmp_path):
    best = trained_on_video / "run" / "best.pth"
    assert eval_main(argv("MARS", SHARED / "data" / "plaza", tmp_path / "jpeg", TEST__WEIGHT=best, **ALIKE)) == 0
    video, jpeg = features(trained_on_video / "run"), features(tmp_path / "jpeg")
    assert video["is_query"].sum() == jpeg["is_query"].sum() == 17 and len(video["pids"]) == len(jpeg["pids"]) == 64
    names = json.loads((trained_on_video / "run" / "labels.json").read_text())["test_ids"]
    assert [int(names[str(pid)]) for pid in video["pids"]] == jpeg["pids"].tolist()  # the same tracklets in order
    a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (video["features"], jpeg["features"]))
    own = (a * b).sum(axis=1)
    others = np.linalg.norm(a[:, None] - a[None], axis=2) + 9 * np.eye(len(a))
    # JPEG and enlarging move a tracklet far less than the nearest other tracklet lies away.
    assert own.min() > 0.999 and np.linalg.norm(a - b, axis=1).max() < 0.5 * np.median(others.min(axis=1))


def test_evaluation_of_the_video_gives_the_scores_of_training(trained_on_video, tmp_path):
    keys = ALIKE | {"TEST__WEIGHT": trained_on_video / "run" / "best.pth", "TEST__SAVE_RANKS": True}
    argument = argv("video", trained_on_video, tmp_path / "run", DATASETS__CACHE_DIR=trained_on_video / "cache", **keys)
    assert eval_main(argument) == 0
    ours, theirs = metrics(tmp_path / "run"), metrics(trained_on_video / "run")
    assert {name: ours[name] for name in SCORES} == {name: theirs[name] for name in SCORES}
    rows = list(csv.DictReader((tmp_path / "run" / "ranks.csv").open()))
    assert {row["camera"] for row in rows} == {"C1", "C2", "C3", "C4"}

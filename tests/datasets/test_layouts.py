"""Whole runs on every layout: training works, and eval-main.py gives the scores of training's own tests exactly."""

import csv
import json
import shutil

import numpy as np
import pytest

from datasets import load_splits
from datasets.synthetic.command import write_set
from processor.run import eval_main, train_main
from tests.conftest import SCORES, metrics, tiny_options

NAMES = {
    "mars": "MARS", "lsvid": "LSVID", "ilids": "iLIDS-VID", "folder": "folder", "manifest": "Manifest",
    "video": "video", "market1501": "Market1501", "msmt17": "MSMT17",
}  # fmt: skip
PLAN = {"train_ids": 4, "test_ids": 4, "frames": (3, 5), "size": (32, 16), "workers": 0}
IMAGES = {"INPUT__SEQ_LEN": 1, "MODEL__TEMPORAL": "TAP", "MODEL__SSP__VARIANT": "simple"}
ONE_EPOCH = {"SOLVER__MAX_EPOCHS": 1, "SOLVER__STEPS": "[]"}


def argv(layout, root, out, **overrides):
    keys = {"DATASETS__NAMES": NAMES[layout], "DATASETS__ROOT_DIR": root, "OUTPUT_DIR": out} | overrides
    return tiny_options(**(IMAGES if layout in ("market1501", "msmt17") else {}) | keys)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """layout -> folder of a small set, written once."""
    written = {}

    def build(layout):
        if layout not in written:
            written[layout] = tmp_path_factory.mktemp(layout) / "set"
            more = {} if layout == "ilids" else {"cameras": 2, "tracklets": 2}
            write_set(written[layout], layout, **PLAN, **more)
        return written[layout]

    return build


def contents(root):
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize("layout", NAMES)
def test_training_runs_and_evaluation_reproduces_its_scores(layout, data, tmp_path):
    root = data(layout)
    before = contents(root)
    keys = {"SOLVER__MAX_EPOCHS": 2, "TEST__SAVE_FEATURES": True}
    assert train_main(argv(layout, root, tmp_path / "run", **keys)) == 0
    trained = metrics(tmp_path / "run")
    with np.load(tmp_path / "run" / "features.npz") as file:
        features = file["features"]
    best = tmp_path / "run" / "best.pth"
    # The dense final test, then the one-clip test that chose the epoch.
    assert eval_main(argv(layout, root, tmp_path / "dense", TEST__WEIGHT=best, **keys)) == 0
    assert {name: metrics(tmp_path / "dense")[name] for name in SCORES} == {name: trained[name] for name in SCORES}
    with np.load(tmp_path / "dense" / "features.npz") as file:
        assert np.array_equal(file["features"], features)
    assert eval_main(argv(layout, root, tmp_path / "first", TEST__WEIGHT=best, TEST__SAMPLING="first")) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    chosen = rows[trained["epoch"] - 1]
    first = metrics(tmp_path / "first")
    assert {name: first[name] for name in SCORES} == {name: float(chosen[name]) for name in SCORES}
    assert contents(root) == before  # nothing is written into the data


@pytest.mark.parametrize("layout", ["folder", "manifest", "video"])
def test_persons_and_cameras_of_own_data_are_named_in_the_output(layout, data, tmp_path):
    root = data(layout)
    assert train_main(argv(layout, root, tmp_path / "run", TEST__SAVE_RANKS=True, **ONE_EPOCH)) == 0
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    splits = load_splits(layout, str(root), **({} if layout == "folder" else {"cache_dir": str(tmp_path / "cache")}))
    assert list(labels["train_labels"].values()) == list(splits.train_persons) and len(splits.train_persons) == 4
    assert set(labels["cameras"]) == {"0", "1"} and all(labels["cameras"].values())
    rows = list(csv.DictReader((tmp_path / "run" / "ranks.csv").open()))
    assert {row["pid"] for row in rows} <= set(labels["test_ids"].values())
    assert {row["camera"] for row in rows} == set(labels["cameras"].values())


def test_labels_of_a_test_are_those_of_its_own_data(data, tmp_path):
    assert train_main(argv("folder", data("folder"), tmp_path / "run", **ONE_EPOCH)) == 0
    of_training = json.loads((tmp_path / "run" / "labels.json").read_text())
    other = shutil.copytree(data("folder"), tmp_path / "other")
    for folder in sorted(other.glob("*/person-*")):
        folder.rename(folder.with_name(f"other-{folder.name}"))
    keys = {"TEST__WEIGHT": tmp_path / "run" / "best.pth"}
    assert eval_main(argv("folder", other, tmp_path / "run", **keys)) == 0
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert labels["train_labels"] == of_training["train_labels"] and labels["test_ids"] != of_training["test_ids"]
    tested = {name for name in labels["test_ids"].values() if not name.startswith("stranger")}
    assert tested == {path.name for path in other.glob("query/*")}
    assert eval_main(argv("folder", other, tmp_path / "test only", **keys)) == 0
    assert json.loads((tmp_path / "test only" / "labels.json").read_text())["train_labels"] == {}


def test_frames_left_out_are_said_and_recorded(data, tmp_path, caplog):
    root = data("folder")
    query = sorted(root.glob("query/*/*/*"))
    first = [path.relative_to(root).as_posix() for path in query if path.parent == query[0].parent]
    rows = [f"query,{name}," for name in first] + ["train,nowhere.jpg,"]
    (tmp_path / "list.csv").write_text("\n".join(["split,frame,reason", *rows]) + "\n")
    with caplog.at_level("INFO"):
        arguments = argv("folder", root, tmp_path / "run", DATASETS__EXCLUDE=tmp_path / "list.csv", **ONE_EPOCH)
        assert train_main(arguments) == 0
    unmatched = f"1 of its {len(rows)} rows name no frame of a sound tracklet"
    said = f"{len(first)} frames left out (1 query tracklets gone, {unmatched})"
    assert f"DATASETS.EXCLUDE {tmp_path / 'list.csv'}: {said}" in caplog.text
    assert metrics(tmp_path / "run")["protocol"]["left_out"] == said and metrics(tmp_path / "run")["num_query"] == 7


def test_data_without_cameras(data, tmp_path):
    root = shutil.copytree(data("folder"), tmp_path / "plain")
    for number, folder in enumerate(sorted(root.glob("*/*/*_*"))):
        folder.rename(folder.with_name(f"walk{number}"))
    assert train_main(argv("folder", root, tmp_path / "run", **ONE_EPOCH)) == 0
    result = metrics(tmp_path / "run")
    assert result["protocol"]["camera_embedding"] is False and result["protocol"]["same_camera_filter"] is False
    assert result["num_query_without_match"] == 0 and not result["protocol"]["gallery_includes_query"]
    # With the queries in the gallery no query may find itself: the score cannot rise to 1 by that.
    out = tmp_path / "in"
    keys = {"TEST__WEIGHT": tmp_path / "run" / "best.pth", "TEST__GALLERY_INCLUDES_QUERY": True}
    assert eval_main(argv("folder", root, out, **keys)) == 0
    assert metrics(out)["num_gallery"] == result["num_gallery"] + result["num_query"] and metrics(out)["mAP"] < 1


def test_a_camera_of_the_test_alone_is_substituted_alike_in_training_and_in_evaluation(data, tmp_path, caplog):
    root = shutil.copytree(data("folder"), tmp_path / "set")
    for part in ("query", "gallery"):  # the second camera of the test is one that training never sees
        for folder in sorted((root / part).glob("*/*_*")):
            camera, number = folder.name.rsplit("_", 1)
            if camera == sorted({f.name.rsplit("_", 1)[0] for f in root.glob("train/*/*")})[1]:
                folder.rename(folder.with_name(f"zoo_{number}"))
    found = {}
    for unseen in ("off", "mean"):
        keys = ONE_EPOCH | {"MODEL__SIE_UNSEEN": unseen, "TEST__SAVE_FEATURES": True}
        out = tmp_path / unseen
        assert train_main(argv("folder", root, out, **keys)) == 0
        with np.load(out / "features.npz") as file:
            found[unseen] = file["features"]
        caplog.clear()
        with caplog.at_level("INFO"):
            assert eval_main(argv("folder", root, out, **keys)) == 0
        assert "1 of 2 cameras were not trained on" in caplog.text
        with np.load(out / "features.npz") as file:
            assert np.array_equal(file["features"], found[unseen])
    assert not np.array_equal(found["off"], found["mean"])


def test_ls_vid_is_trained_on_chunks_and_tested_on_whole_tracklets(tmp_path):
    write_set(tmp_path / "set", "lsvid", **PLAN | {"frames": (7, 9)}, cameras=2, tracklets=1)
    splits = load_splits("LS-VID", str(tmp_path / "set"), train_items="chunks 4")
    assert {len(t.frames) for t in splits.train} == {4, 5} | ({7} & {len(t.frames) for t in splits.train})
    assert {len(t.frames) for t in splits.query + splits.gallery} <= {7, 8, 9}
    assert splits.num_cameras == 15 and splits.gallery_includes_query and splits.val_query
    keys = ONE_EPOCH | {"DATASETS__TRAIN_ITEMS": "'chunks 4'", "SOLVER__SELECT_BY": "val"}
    assert train_main(argv("lsvid", tmp_path / "set", tmp_path / "run", **keys)) == 0
    assert metrics(tmp_path / "run")["selected_by"] == "val"
    log = (tmp_path / "run" / "train_log.txt").read_text()
    assert f"{'train':<12}{splits.num_classes:>8,}" in log  # the set's own validation part leaves training whole

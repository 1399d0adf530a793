"""Whole runs on image sets: their recipes, and training and evaluation of images as tracklets of one frame."""

import csv

import numpy as np
import pytest

from configs import load_cfg
from configs.command import DEFAULT_CONFIG
from configs.defaults import get_cfg
from configs.load import flatten
from datasets import load_splits
from datasets.check.command import main as check_main
from datasets.synthetic.command import write_set
from processor.run import eval_main, train_main
from tests.conftest import SCORES, metrics, tiny_options

NAMES = {"market1501": "Market1501", "msmt17": "MSMT17"}
IMAGES = {"INPUT__SEQ_LEN": 1, "MODEL__TEMPORAL": "TAP", "MODEL__SSP__VARIANT": "simple", "SOLVER__MAX_EPOCHS": 2}


@pytest.fixture(scope="module", params=NAMES)
def data(request, tmp_path_factory):
    """Layout and folder of a small set of images."""
    root = tmp_path_factory.mktemp(request.param) / "set"
    plan = {"train_ids": 4, "test_ids": 4, "cameras": 2, "tracklets": 2, "frames": (2, 3), "size": (32, 16)}
    write_set(root, request.param, workers=0, **plan)
    return request.param, root


def argv(layout, root, out, **overrides):
    keys = IMAGES | {"DATASETS__NAMES": NAMES[layout], "DATASETS__ROOT_DIR": root, "OUTPUT_DIR": out}
    return tiny_options(**keys | overrides)


def names_of(tracklets):
    return {name for t in tracklets for name in t.frames}


def test_splits_are_images_of_disjoint_people(data):
    layout, root = data
    splits = load_splits(layout, str(root))
    every = [t for part in (splits.train, splits.query, splits.gallery) for t in part]
    assert {len(t.frames) for t in every} == {1} and len(names_of(every)) == len(every)
    junk = len(list(root.rglob("-1_*.jpg")))
    assert len(every) + junk == len(list(root.rglob("*.jpg"))) and bool(junk) is (layout == "market1501")
    assert (splits.num_classes, len({t.pid for t in splits.query}), len(splits.query)) == (4, 4, 8)
    assert len({t.pid for t in splits.gallery}) == (5 if layout == "market1501" else 4)
    assert splits.num_cameras == (6 if layout == "market1501" else 15) and not splits.gallery_includes_query


def test_a_clean_set_passes_the_check(data, capsys):
    layout, root = data
    keys = ("DATASETS.ROOT_DIR", str(root), "SOLVER.IMS_PER_BATCH", "8", "DATALOADER.NUM_WORKERS", "0")
    assert check_main(["--config_file", str(DEFAULT_CONFIG.parent / f"{layout}.yml"), *keys]) == 0
    report = capsys.readouterr().out
    assert report.startswith(f"{NAMES[layout]} in {root}\n") and report.endswith("\nno problem found\n")
    assert report.count("note: ") == report.count("are not the official ones") == 1


def test_training_runs_and_evaluation_reproduces_its_scores(data, tmp_path):
    layout, root = data
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    keys = {"TEST__SAVE_FEATURES": True, "TEST__SAVE_RANKS": True}
    assert train_main(argv(layout, root, tmp_path / "run", **keys)) == 0
    trained, splits = metrics(tmp_path / "run"), load_splits(layout, str(root))
    assert (trained["num_query"], trained["num_gallery"]) == (len(splits.query), len(splits.gallery))
    assert trained["num_query_without_match"] == 0 and not trained["protocol"]["gallery_includes_query"]
    assert trained["protocol"]["same_camera_filter"] and 0 < trained["mAP"] <= 1
    best = tmp_path / "run" / "best.pth"
    # With one frame per tracklet the dense test and the one during training see the same.
    for sampling in ("dense", "first"):
        out = tmp_path / sampling
        assert eval_main(argv(layout, root, out, TEST__WEIGHT=best, TEST__SAMPLING=sampling, **keys)) == 0
        assert {name: metrics(out)[name] for name in SCORES} == {name: trained[name] for name in SCORES}
        with np.load(out / "features.npz") as mine, np.load(tmp_path / "run" / "features.npz") as file:
            assert np.array_equal(mine["features"], file["features"])
    rows = list(csv.DictReader((tmp_path / "run" / "ranks.csv").open()))
    tested = {"5", "6", "7", "8"} if layout == "market1501" else {"0", "1", "2", "3"}
    assert {row["pid"] for row in rows} == tested  # the numbers of the set itself
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_training_identities_are_held_out_for_validation(data, tmp_path):
    layout, root = data
    keys = {"SOLVER__SELECT_BY": "val", "DATASETS__VAL_FRACTION": 0.5, "SOLVER__MAX_EPOCHS": 1, "SOLVER__STEPS": "[]"}
    assert train_main(argv(layout, root, tmp_path / "run", **keys)) == 0
    assert metrics(tmp_path / "run")["selected_by"] == "val"


@pytest.mark.parametrize("layout", NAMES)
def test_recipes(layout):
    defaults, cfg = (dict(flatten(cfg)) for cfg in (get_cfg(), load_cfg(DEFAULT_CONFIG.parent / f"{layout}.yml")))
    assert {key: value for key, value in cfg.items() if value != defaults[key]} == {
        "MODEL.TEMPORAL": "TAP", "MODEL.SSP.VARIANT": "simple", "INPUT.SEQ_LEN": 1, "SOLVER.IMS_PER_BATCH": 64,
        "SOLVER.MAX_EPOCHS": 60, "SOLVER.STEPS": [30, 50],
    } | ({"DATASETS.NAMES": NAMES[layout]})  # fmt: skip
    assert cfg["DATALOADER.NUM_INSTANCE"] == 4

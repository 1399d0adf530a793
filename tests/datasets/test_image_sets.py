"""Image sets: images are tracklets of one frame; their check, their protocol and their recipes."""

import csv

import pytest

from configs import load_cfg
from configs.command import DEFAULT_CONFIG
from configs.defaults import get_cfg
from configs.load import flatten
from datasets import load_splits
from datasets.check.command import main as check_main
from datasets.synthetic.command import write_set
from processor.run import train_main
from tests.conftest import metrics
from tests.datasets.test_layouts import NAMES, ONE_EPOCH, PLAN, argv

LAYOUTS = ("market1501", "msmt17")


@pytest.fixture(scope="module", params=LAYOUTS)
def data(request, tmp_path_factory):
    """Layout and folder of a small set of images."""
    root = tmp_path_factory.mktemp(request.param) / "set"
    write_set(root, request.param, cameras=2, tracklets=2, **PLAN)
    return request.param, root


def test_splits_are_images_of_disjoint_people(data):
    layout, root = data
    splits = load_splits(layout, str(root))
    every = [t for part in (splits.train, splits.query, splits.gallery) for t in part]
    assert {len(t.frames) for t in every} == {1} and len({t.frames for t in every}) == len(every)
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


def test_a_run_tests_all_images_under_the_protocol_of_the_set(data, tmp_path):
    layout, root = data
    keys = ONE_EPOCH | {"SOLVER__SELECT_BY": "val", "DATASETS__VAL_FRACTION": 0.5, "TEST__SAVE_RANKS": True}
    assert train_main(argv(layout, root, tmp_path / "run", **keys)) == 0
    trained, splits = metrics(tmp_path / "run"), load_splits(layout, str(root))
    assert trained["selected_by"] == "val"  # by training identities that were held out
    assert (trained["num_query"], trained["num_gallery"]) == (len(splits.query), len(splits.gallery))
    assert trained["num_query_without_match"] == 0 and not trained["protocol"]["gallery_includes_query"]
    assert trained["protocol"]["same_camera_filter"] and 0 < trained["mAP"] <= 1
    rows = list(csv.DictReader((tmp_path / "run" / "ranks.csv").open()))
    tested = {"5", "6", "7", "8"} if layout == "market1501" else {"0", "1", "2", "3"}
    assert {row["pid"] for row in rows} == tested  # the numbers of the set itself


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recipes(layout):
    defaults, cfg = (dict(flatten(cfg)) for cfg in (get_cfg(), load_cfg(DEFAULT_CONFIG.parent / f"{layout}.yml")))
    assert {key: value for key, value in cfg.items() if value != defaults[key]} == {
        "MODEL.TEMPORAL": "TAP", "MODEL.SSP.VARIANT": "simple", "INPUT.SEQ_LEN": 1, "SOLVER.IMS_PER_BATCH": 64,
        "SOLVER.MAX_EPOCHS": 60, "SOLVER.STEPS": [30, 50],
    } | ({"DATASETS.NAMES": NAMES[layout]})  # fmt: skip
    assert cfg["DATALOADER.NUM_INSTANCE"] == 4

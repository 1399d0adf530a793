"""The image rows: CLIP-ReID's recipe, told key by key; all six trained, tested and put into one table."""

import pytest

from configs import changed_keys, get_cfg, load_cfg
from datasets.synthetic.command import write_set
from processor.ablation.command import main
from tests.conftest import ROOT, load, metrics, read_csv, tiny_options
from tests.datasets.test_layouts import PLAN

SETS = ("Market1501", "MSMT17")
RECIPE = {  # of vit_clipreid.yml and CLIP-ReID's transforms and network, where they are not the defaults
    "MODEL.TEMPORAL": "TAP", "MODEL.SIE_CAMERA": False, "MODEL.TRIPLET_PENULTIMATE": True,
    "INPUT.SEQ_LEN": 1, "INPUT.INTERPOLATION": "bicubic", "INPUT.PADDING": 10, "INPUT.RE_MODE": "pixel",
    "INPUT.PIXEL_MEAN": [0.5] * 3, "INPUT.PIXEL_STD": [0.5] * 3,
    "SOLVER.IMS_PER_BATCH": 64, "SOLVER.MAX_EPOCHS": 60, "SOLVER.STEPS": [30, 50], "SOLVER.LARGE_FC_LR": False,
    "SOLVER.SELECT_BY": "last", "SOLVER.EVAL_PERIOD": 60,
}  # fmt: skip
MEMORY = {  # row -> what makes it that row
    "text": {"MODEL.MEMORY": "text", "MODEL.SSP.ENABLED": False},
    "clipm": {"MODEL.SSP.ENABLED": False},
    "clipm_ssp": {"MODEL.SSP.VARIANT": "simple"},
}


def row(name: str, kind: str):
    return ROOT / "configs" / "ablation" / f"images_{name.lower()}_{kind}.yml"


def beside_defaults(path) -> dict:
    return {key: new for key, (_, new) in changed_keys(get_cfg().dump(), load_cfg(path)).items()}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", MEMORY)
def test_a_row_is_the_recipe_of_clip_reid_and_its_memory(name, kind):
    own = MEMORY[kind] | {"DATASETS.NAMES": name}
    assert beside_defaults(row(name, kind)) == RECIPE | own


def test_the_defaults_that_a_row_relies_on_are_those_of_clip_reid():
    cfg = load_cfg(row("Market1501", "text"))
    solver, text = cfg.SOLVER, cfg.SOLVER.TEXT
    assert (cfg.INPUT.SIZE_TRAIN, cfg.INPUT.PROB, cfg.INPUT.RE_PROB) == ([256, 128], 0.5, 0.5)
    assert (cfg.MODEL.NAME, cfg.MODEL.STRIDE_SIZE, cfg.DATALOADER.NUM_INSTANCE) == ("ViT-B-16", [16, 16], 4)
    weights = cfg.MODEL.ID_LOSS_WEIGHT, cfg.MODEL.TRIPLET_LOSS_WEIGHT, cfg.MODEL.V2M_LOSS_WEIGHT
    assert (*weights, cfg.MODEL.IF_LABELSMOOTH, solver.MARGIN) == (0.25, 1, 1, True, 0.3)
    assert (solver.BASE_LR, solver.BIAS_LR_FACTOR, solver.GAMMA) == (5e-6, 2, 0.1)
    assert (solver.WARMUP_EPOCHS, solver.WARMUP_FACTOR) == (10, 0.1)
    assert solver.WEIGHT_DECAY == solver.WEIGHT_DECAY_BIAS == text.WEIGHT_DECAY == 1e-4
    assert (text.MAX_EPOCHS, text.BATCH_SIZE, text.BASE_LR, text.MIN_LR) == (120, 64, 3.5e-4, 1e-6)
    assert (text.WARMUP_EPOCHS, text.WARMUP_LR) == (5, 1e-5)
    assert (cfg.TEST.NECK_FEAT, cfg.TEST.FEAT_NORM, cfg.TEST.RE_RANKING) == ("before", True, False)


@pytest.mark.parametrize("name", SETS)
def test_the_config_of_a_set_differs_from_its_row_as_its_comment_says(name):
    path = ROOT / "configs" / f"{name.lower()}.yml"
    changes = set(changed_keys(load_cfg(path).dump(), load_cfg(row(name, "clipm_ssp"))))
    assert changes == {
        "MODEL.SIE_CAMERA", "MODEL.TRIPLET_PENULTIMATE", "INPUT.INTERPOLATION", "INPUT.PADDING", "INPUT.RE_MODE",
        "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD", "SOLVER.LARGE_FC_LR", "SOLVER.SELECT_BY", "SOLVER.EVAL_PERIOD",
    }  # fmt: skip


@pytest.mark.slow
def test_all_rows_train_and_stand_in_one_table_beside_the_papers_figures(tmp_path):
    pytest.importorskip("open_clip")
    for name in SETS:
        write_set(tmp_path / "data" / name, name.lower(), cameras=2, tracklets=2, **PLAN)
    keys = {"DATASETS__ROOT_DIR": tmp_path / "data", "OUTPUT_DIR": tmp_path / "out", "INPUT__SEQ_LEN": 1,
            "INPUT__SIZE_TRAIN": "[48, 24]", "INPUT__SIZE_TEST": "[48, 24]",  # frames of 32 x 16 are resized
            "SOLVER__MAX_EPOCHS": 2, "SOLVER__STEPS": "[1]", "SOLVER__EVAL_PERIOD": 2,
            "MODEL__ENCODER__TEXT_DEPTH": 1, "SOLVER__TEXT__MAX_EPOCHS": 2}  # fmt: skip
    rows = [str(row(name, kind)) for name in SETS for kind in MEMORY]
    assert main([*rows, *tiny_options(**keys)]) == 0
    records = read_csv(tmp_path / "out" / "tables.csv")
    assert {record["table"] for record in records} == {"Image data sets, recipe of CLIP-ReID"}
    assert [(record["row"], record["seeds"], record["data set"]) for record in records] == [
        (f"{name}: {kind}", "1", name) for name in SETS for kind in ("text (CLIP-ReID)", "CLIP-M", "CLIP-M, SSP")
    ]
    assert [record["mAP paper"] for record in records] == ["90.4", "89.6", "90.4", "73.2", "72.0", "73.9"]
    for path in map(str, rows):
        run = tmp_path / "out" / path.rpartition("/")[2].removesuffix(".yml") / "seed1234"
        memory = "text_features.pt" if "_text" in path else "clip_memory.pt"
        assert load(run / memory).shape == (4, 64) and 0 < metrics(run)["mAP"] <= 1
        assert metrics(run)["selected_by"] == "last" and metrics(run)["epoch"] == 2
        (first, second) = read_csv(run / "history.csv")
        assert 0 < float(second["loss_total"]) and float(first["loss_triplet"]) > 0

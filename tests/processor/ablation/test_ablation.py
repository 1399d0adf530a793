"""processor.ablation: rows, seeds, tables, broken runs, and the configs of the paper's rows."""

import json
import logging
import sys
from collections import Counter
from pathlib import Path

import pytest

from configs import load_cfg
from processor.ablation import command
from processor.ablation.command import main
from processor.ablation.paper import PAPER_ROWS
from tests.conftest import ROOT, metrics, one_error, read_csv, tiny_options

ROWS = ROOT / "configs" / "ablation"


def row(*names: str) -> list[str]:
    return [str(ROWS / f"{name}.yml") for name in names]


@pytest.fixture
def tiny(tiny_mars, tmp_path):
    """argv of the tiny model into tmp_path/out."""
    keys = {"SOLVER__MAX_EPOCHS": 2, "SOLVER__STEPS": "[1]", "SOLVER__EVAL_PERIOD": 2}
    return tiny_options(DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=tmp_path / "out", **keys)


def table(out: Path) -> list[dict[str, str]]:
    return read_csv(out / "tables.csv")


def test_rows_and_seeds_give_one_table(tiny, tmp_path):
    out, rows = tmp_path / "out", row("table2_row2", "table3_none", "table2_row4")
    assert main([*rows, "--seeds", "1,2", *tiny]) == 0
    runs = sorted(str(path.parent.relative_to(out)) for path in out.rglob("last.pth"))
    # table3_none has the config of table2_row2, and its runs.
    assert runs == [f"table2_row{n}/seed{seed}" for n in (2, 4) for seed in (1, 2)]
    records = table(out)
    assert [r["config"] for r in records] == ["table2_row2", "table2_row4", "table3_none"]
    scores = [metrics(out / f"table2_row2/seed{seed}")["mAP"] for seed in (1, 2)]
    assert float(records[0]["mAP"]) == pytest.approx(100 * sum(scores) / 2, abs=0.005)
    assert float(records[0]["mAP spread"]) == pytest.approx(100 * abs(scores[0] - scores[1]) / 2**0.5, abs=0.005)
    assert records[0]["mAP paper"] == "88.4" and records[0]["mAP difference"] == ""  # not the official test set
    own = [name for name in records[0] if "paper" not in name and name not in ("table", "row", "config")]
    assert [records[2][name] for name in own] == [records[0][name] for name in own]
    assert float(records[1]["params M"]) > float(records[0]["params M"]) and records[0]["params M paper"] == ""
    text = (out / "tables.md").read_text()
    assert "## Table 2, components" in text and "## Table 3, parts of TMD" in text and "±" in text
    configs = [load_cfg(out / run / "config.yml") for run in runs]
    assert [cfg.SOLVER.SEED for cfg in configs] == [1, 2, 1, 2]
    assert [cfg.MODEL.TEMPORAL for cfg in configs] == ["TAP", "TAP", "TMD", "TMD"]
    assert not any(cfg.MODEL.SSP.ENABLED for cfg in configs)


def test_finished_rows_are_skipped_and_a_new_seed_is_added(tiny, tmp_path, caplog):
    out, rows = tmp_path / "out", row("table2_row2")
    assert main([*rows, "--seeds", "1", *tiny]) == 0
    assert table(out)[0]["seeds"] == "1" and table(out)[0]["mAP spread"] == ""
    before = (out / "table2_row2/seed1/last.pth").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert main([*rows, "--seeds", "1,2", *tiny]) == 0
    assert "table2_row2, seed 1 is finished" in caplog.text and table(out)[0]["seeds"] == "2"
    assert (out / "table2_row2/seed1/last.pth").stat().st_mtime_ns == before


def test_a_finished_run_that_lacks_a_score_is_tested_again_and_needs_no_pretrained_weights(tiny, tmp_path, monkeypatch):
    rows, run, asked = row("table2_row2"), tmp_path / "out/table2_row2/seed1", []
    monkeypatch.setattr(command, "check_start", lambda cfg, pretrained=True: asked.append(pretrained))
    assert main([*rows, "--seeds", "1", *tiny]) == 0
    complete, weights = metrics(run), (run / "last.pth").read_bytes()
    earlier = json.dumps({name: value for name, value in complete.items() if name != "mINP"})
    for seeds in ("1", "1,2"):
        (run / "metrics.json").write_text(earlier)
        assert main([*rows, "--seeds", seeds, *tiny]) == 0
        assert metrics(run) == complete and (run / "last.pth").read_bytes() == weights
        assert table(tmp_path / "out")[0]["mINP"] and table(tmp_path / "out")[0]["seeds"] == seeds[-1]
    assert asked == [True, False, True]  # the last time for seed 2


def test_an_ablation_that_was_broken_off_goes_on(tiny, tmp_path, caplog, monkeypatch, interrupt_when):
    rows, out, unbroken = row("table2_row2", "table2_row6"), tmp_path / "out", tmp_path / "unbroken"
    interrupt_when(lambda epoch, step: epoch == 2 and (out / "table2_row6").exists())
    assert main([*rows, *tiny]) == 130
    monkeypatch.undo()
    assert "finished runs are kept, continue with" in caplog.text
    assert [(r["config"], r["seeds"]) for r in table(out)] == [("table2_row2", "1"), ("table2_row6", "0")]
    finished = (out / "table2_row2/seed1234/last.pth").stat().st_mtime_ns
    assert main([*rows, *tiny]) == 0
    assert (out / "table2_row2/seed1234/last.pth").stat().st_mtime_ns == finished
    assert "continuing after epoch 1" in (out / "table2_row6/seed1234/train_log.txt").read_text()
    assert main([*rows, *tiny, "OUTPUT_DIR", str(unbroken)]) == 0
    assert table(out) == table(unbroken)


def test_rows_of_ones_own(tiny, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "no_camera.yml").write_text("MODEL:\n   SIE_CAMERA: False\n")
    assert main([str(tmp_path / "rows"), *tiny]) == 0
    (record,) = table(tmp_path / "out")
    assert (record["table"], record["row"], record["mAP paper"]) == ("Own rows", "no_camera", "")
    assert not load_cfg(tmp_path / "out" / "no_camera" / "seed1234" / "config.yml").MODEL.SIE_CAMERA


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no row is named"),
        (["configs/ablation/table2_row9.yml"], "row configs/ablation/table2_row9.yml does not exist; did you mean"),
        (["table5_conv"], "table5_conv1d.yml?"),
        (["OUTPUT_DIR", "o", *row("table2_row2"), *row("table2_row4")], "rows come first"),
        ([*row("table2_row2"), "MODEL.TEMPORAL", "TMD"], "MODEL.TEMPORAL is what row"),
        ([*row("images_msmt17_text"), "INPUT.PADDING", "0"], "INPUT.PADDING is what row"),
        ([*row("table1_cnn_tfclip"), "--config_file", str(ROOT / "configs/demo.yml")], "table1_cnn_tfclip.yml: MODEL."),
        ([*row("table2_row2"), "DATASETS.ROOT_DIR", "nowhere"], "row table2_row2: DATASETS.ROOT_DIR nowhere"),
        ([*row("table2_row2"), "MODEL.PRETRAIN_PATH", "none.pt"], "row table2_row2: MODEL.PRETRAIN_PATH: none.pt"),
        ([*row("table2_row2"), "--seeds=-1"], "SOLVER.SEED"),
        ([*row("table2_row2"), "--overwrite", "SOLVER.SEED", "3"], "unrecognized arguments: --overwrite ("),
        ([*row("table2_row2"), "--seeds", "1,x"], "--seeds 1,x: command line: SOLVER.SEED must be a whole number"),
        ([*row("table2_row2"), "--seeds", "1,1"], "names a seed twice"),
        ([str(ROOT / "loss")], "holds no row"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(argv, message, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in one_error(caplog, main, argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("seed", "SOLVER:\n   SEED: 7\n", "SOLVER.SEED is the same for all rows"),
        ("out", "OUTPUT_DIR: elsewhere\n", "OUTPUT_DIR is the same for all rows"),
        ("table2_row4", "MODEL:\n   SIE_CAMERA: False\n", "has the same name"),
        ("typo", "MODEL:\n   TEMPORL: TAP\n", "did you mean MODEL.TEMPORAL?"),
    ],
)
def test_a_row_file_that_cannot_be_one_is_refused(tiny, tmp_path, caplog, name, text, message):
    path = tmp_path / f"{name}.yml"
    path.write_text(text)
    assert main([str(path), *tiny]) == 2
    assert message in caplog.text and str(path) in caplog.text and not (tmp_path / "out").exists()


def test_a_folder_with_a_plain_run_is_refused(tiny, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last.pth").write_bytes(b"")
    assert main([*row("table2_row2"), *tiny]) == 2
    assert "holds a run of train-main.py" in caplog.text and "--overwrite" not in caplog.text


def test_a_broken_run_does_not_keep_the_other_rows(tiny, tmp_path, caplog):
    broken = tmp_path / "out" / "table2_row2" / "seed1234"
    broken.mkdir(parents=True)
    (broken / "last.pth").write_bytes(b"no checkpoint")
    assert main([*row("table2_row2", "table2_row4"), *tiny]) == 2
    assert f"to train it anew, remove {broken}" in caplog.text
    assert "1 runs did not end: table2_row2, seed 1234" in caplog.text
    assert [record["seeds"] for record in table(tmp_path / "out")] == ["0", "1"]


def test_runs_of_another_recipe_are_kept_but_not_put_into_the_table(tiny, tmp_path, caplog):
    rows = row("table2_row2", "table2_row4")
    assert main([*rows[1:], *tiny]) == 0
    assert main([*rows, *tiny, "SOLVER.BASE_LR", "1e-4"]) == 2
    assert "table2_row4/seed1234/config.yml was trained with SOLVER.BASE_LR" in caplog.text
    assert [record["seeds"] for record in table(tmp_path / "out")] == ["1", "0"]


def test_cost_only_needs_no_data_and_without_the_optional_package_other_rows_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with caplog.at_level(logging.INFO):
        assert main(["--cost-only", *row("table2_row1", "table2_row2")]) == 0
    lines = [record.message for record in caplog.records]
    assert any(line.startswith("table2_row1 is not counted: MODEL.MEMORY text needs the package") for line in lines)
    assert next(line for line in lines if line.startswith("  1: text")).split()[2:4] == ["-", "126.78"]
    cells = next(line for line in lines if line.startswith("  2: CLIP-M")).split()[-7:]
    assert cells == ["86.95", "86.94", "+0.0%", "11.31", "11.26", "+0.4%", "11.39"]
    assert list(tmp_path.iterdir()) == []


def test_every_row_of_the_paper_has_its_file_and_every_file_its_row():
    assert sorted(r.config for r in PAPER_ROWS) == sorted(path.stem for path in ROWS.glob("*.yml"))
    assert list(Counter(r.table for r in PAPER_ROWS).values()) == [2, 6, 6, 6, 4, 2, 6]


def test_the_recipe_of_rn50_is_that_of_its_row():
    recipe, of_row = load_cfg(ROOT / "configs" / "rn50.yml"), load_cfg(ROWS / "table1_cnn_tfclip.yml")
    assert recipe.dump() == of_row.dump()


def test_rows_on_the_base_config_are_rows_on_the_defaults():
    for path in ROWS.glob("*.yml"):
        assert load_cfg([ROOT / "configs" / "vit_base.yml", path]).dump() == load_cfg(path).dump()

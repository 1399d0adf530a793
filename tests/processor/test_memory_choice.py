"""MODEL.MEMORY in whole runs: text features in CLIP-Memory's place, and no memory at all."""

import sys

import pytest
import torch

from processor.run import eval_main, train_main
from tests.conftest import load, one_error, read_csv

TEXT = {"MODEL__MEMORY": "text", "MODEL__ENCODER__TEXT_DEPTH": 1, "SOLVER__TEXT__MAX_EPOCHS": 2}


def test_text_features_take_the_place_of_clip_memory(tiny_argv, tmp_path):
    pytest.importorskip("open_clip")
    out = tmp_path / "run"
    assert train_main(tiny_argv(**TEXT, SOLVER__MAX_EPOCHS=2)) == 0
    features = load(out / "text_features.pt")
    state = load(out / "last.pth")
    assert features.shape == (6, 64) and torch.equal(features, state["clip_memory"])
    assert not (out / "clip_memory.pt").exists()
    assert not any(name.startswith(("text", "tower", "prompts")) for name in state["model"])
    rows = read_csv(out / "history.csv")
    assert all(float(row["loss_v2m"]) > 0 for row in rows)
    assert eval_main(tiny_argv(**TEXT)) == 0
    # The same seed learns the same prompts; fewer epochs give others.
    for epochs, same in ((2, True), (1, False)):
        keys = {"SOLVER__TEXT__MAX_EPOCHS": epochs, "SOLVER__MAX_EPOCHS": 1, "OUTPUT_DIR": tmp_path / str(epochs)}
        assert train_main(tiny_argv(**TEXT | keys)) == 0
        assert torch.equal(load(tmp_path / str(epochs) / "text_features.pt"), features) == same


def test_a_resumed_run_needs_no_text_tower(tiny_argv, tmp_path, monkeypatch):
    pytest.importorskip("open_clip")
    assert train_main(tiny_argv(**TEXT, SOLVER__MAX_EPOCHS=1)) == 0
    features = load(tmp_path / "run" / "text_features.pt")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert train_main(tiny_argv("--resume", **TEXT, SOLVER__MAX_EPOCHS=2)) == 0
    state = load(tmp_path / "run" / "last.pth")
    assert state["epoch"] == 2 and torch.equal(state["clip_memory"], features)


def test_without_open_clip_the_run_says_what_to_install(tiny_argv, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    line = one_error(caplog, train_main, tiny_argv(**TEXT))
    assert "MODEL.MEMORY text needs the package open_clip_torch" in line and "pip install" in line
    assert not (tmp_path / "run").exists()


def test_pretrained_text_needs_the_file_with_the_tower(tiny_argv, tmp_path, caplog):
    pytest.importorskip("open_clip")
    sizes = {f"MODEL__ENCODER__{key}": 0 for key in ("WIDTH", "DEPTH", "HEADS", "PATCH", "EMBED")}
    argv = tiny_argv(MODEL__MEMORY="text", MODEL__PRETRAIN_CHOICE="openai", MODEL__STRIDE_SIZE="[16, 16]", **sizes)
    line = one_error(caplog, train_main, argv)
    assert "MODEL.MEMORY text needs MODEL.PRETRAIN_PATH" in line and "ViT-B-16.pt" in line
    assert not (tmp_path / "run").exists()


def test_without_memory_there_is_no_pass_and_no_term(tiny_argv, tmp_path):
    out = tmp_path / "run"
    argv = {"MODEL__MEMORY": "none", "MODEL__SSP__ENABLED": False, "SOLVER__MAX_EPOCHS": 2}
    assert train_main(tiny_argv(**argv | {"SOLVER__MAX_EPOCHS": 1})) == 0
    assert train_main(tiny_argv("--resume", **argv)) == 0
    assert not (out / "clip_memory.pt").exists() and not (out / "text_features.pt").exists()
    assert load(out / "last.pth")["clip_memory"] is None
    rows = read_csv(out / "history.csv")
    assert [float(row["loss_v2m"]) for row in rows] == [0, 0] and float(rows[0]["loss_id"]) > 0
    assert eval_main(tiny_argv(**argv)) == 0


def test_a_run_may_go_on_with_gradient_checkpointing(tiny_argv, tmp_path):
    """The same gradients in less GPU memory: for a run that ran out of it."""
    for name, flags in (("plain", {}), ("switched", {"MODEL__GRAD_CHECKPOINT": True})):
        out = {"OUTPUT_DIR": tmp_path / name}
        assert train_main(tiny_argv(**out, SOLVER__MAX_EPOCHS=1)) == 0
        assert train_main(tiny_argv("--resume", **out, **flags, SOLVER__MAX_EPOCHS=2)) == 0
    plain, switched = (load(tmp_path / n / "last.pth")["model"] for n in ("plain", "switched"))
    assert all(torch.equal(plain[name], switched[name]) for name in plain)

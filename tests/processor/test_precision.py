"""Tests and the memory pass compute in the number type of their own key, whatever training computes in."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from configs import load_cfg
from processor.run import eval_main, train_main
from processor.runtime import Runtime
from tests.conftest import load, metrics, one_error
from utils.precision import float32_products, has_tf32

SETTINGS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


def settings() -> list[str]:
    return [setting.fp32_precision for setting in SETTINGS]


@pytest.mark.parametrize(("tf32", "value"), [(True, "tf32"), (False, "ieee")])
def test_products_of_float32_are_set_for_a_while(tf32, value):
    before = settings()
    with pytest.raises(KeyError), float32_products(tf32):
        assert settings() == [value, value]
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize(
    ("choice", "capability", "name", "products"),
    [("tf32", (9, 0), "tf32", "tf32"), ("tf32", (7, 5), "float32", "ieee"), ("float32", (9, 0), "float32", "ieee"),
     ("fp16", (9, 0), "float16", "ieee"), ("bf16", (9, 0), "bfloat16", "ieee")],
)  # fmt: skip
def test_what_a_gpu_computes_in(choice, capability, name, products, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    training = Runtime(torch.device("cuda"), torch.bfloat16, torch.nn.Identity())
    runtime = training.with_precision(choice, "TEST.PRECISION")
    assert (runtime.precision, training.precision) == (name, "bfloat16")
    types = []  # what autocast, which needs a driver, is asked for
    monkeypatch.setattr("processor.runtime.autocast", lambda _device, dtype: types.append(dtype) or nullcontext())
    with runtime.autocast():
        assert settings() == [products, products] and types == [runtime.dtype]
    before = settings()
    with training.autocast():
        assert settings() == before  # training leaves torch's own setting alone


def test_the_cpu_has_no_tf32():
    assert not has_tf32(torch.device("cpu"))
    runtime = Runtime.choose("bf16", [0.5] * 3, [0.5] * 3).with_precision("tf32", "TEST.PRECISION")
    assert (runtime.dtype, runtime.precision) == (None, "float32")


@pytest.mark.parametrize("key", ["TEST.PRECISION", "SOLVER.MEMORY_PRECISION"])
def test_fp16_without_a_gpu_and_other_words_are_refused(key, tiny_argv, caplog):
    argv = tiny_argv(**{key.replace(".", "__"): "fp16"})
    assert one_error(caplog, train_main, argv) == f"error: {key} fp16 needs a GPU; bf16 works on the CPU too"
    with pytest.raises(ValueError, match=f"{key} must be one of tf32, float32, bf16, fp16, found 'half'"):
        load_cfg(None, [key, "half"])


def test_a_test_on_the_cpu_takes_the_config_of_training_in_fp16(trained_run, tiny_argv, tmp_path):
    keys = {"SOLVER__AMP": "fp16", "SOLVER__MEMORY_PRECISION": "fp16", "TEST__WEIGHT": trained_run / "best.pth"}
    assert eval_main(tiny_argv(OUTPUT_DIR=tmp_path / "test", **keys)) == 0


def features(out) -> np.ndarray:
    with np.load(out / "features.npz") as file:
        return file["features"]


def test_a_test_has_the_precision_of_its_key(trained_run, tiny_argv, tmp_path, caplog):
    """bfloat16 keeps 8 bits: features move, by some 2**-8 of their size; SOLVER.AMP moves nothing."""
    results = {}
    for name, keys in {"default": {}, "amp": {"SOLVER__AMP": "bf16"}, "bf16": {"TEST__PRECISION": "bf16"}}.items():
        out = tmp_path / name
        weight = {"TEST__WEIGHT": trained_run / "best.pth", "OUTPUT_DIR": out, "TEST__SAVE_FEATURES": True}
        with caplog.at_level("INFO"):
            assert eval_main(tiny_argv(**weight | keys)) == 0
        results[name] = features(out)
        precision = metrics(out)["protocol"]["precision"]
        assert precision == ("bfloat16" if name == "bf16" else "float32")
        assert f"precision {precision}, re-ranking off" in caplog.text
    assert np.array_equal(results["default"], results["amp"])
    assert np.array_equal(results["default"], features(trained_run))
    moved = np.abs(results["bf16"] - results["default"]).max() / np.abs(results["default"]).max()
    assert 2**-14 < moved < 2**-3


def test_the_memory_pass_has_the_precision_of_its_key(tiny_argv, tmp_path):
    memories = {}
    changes = {"default": {}, "amp": {"SOLVER__AMP": "bf16"}, "bf16": {"SOLVER__MEMORY_PRECISION": "bf16"}}
    for name, keys in changes.items():
        keys |= {"OUTPUT_DIR": tmp_path / name, "SOLVER__MAX_EPOCHS": 1, "SOLVER__STEPS": "[1]"}
        assert train_main(tiny_argv(**keys)) == 0
        memories[name] = load(tmp_path / name / "clip_memory.pt")
    assert torch.equal(memories["default"], memories["amp"])
    moved = (memories["bf16"] - memories["default"]).abs().max() / memories["default"].abs().max()
    assert 2**-14 < moved < 2**-3

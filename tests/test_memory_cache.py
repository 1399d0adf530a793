"""The memory pass is made once for the same frames, weights and settings, and again for anything else."""

import logging
import os
import shutil

import pytest
import torch

from configs import load_cfg
from model import build_model
from processor import build as processor_build
from processor import memory_cache
from processor.memory_cache import cached_features, describe_weights
from processor.run import train_main
from tests.conftest import TINY_OPTIONS

TAKEN = "taken from"


@pytest.fixture
def run(tiny_mars, tiny_argv, tmp_path, caplog):
    """Train one epoch on a copy of the data -> (CLIP-Memory, whether it came from the cache)."""
    data = tmp_path / "data"
    shutil.copytree(tiny_mars, data, copy_function=shutil.copy2)

    def train(*flags, **overrides):
        caplog.clear()
        keys = {"DATASETS__ROOT_DIR": data, "SOLVER__MAX_EPOCHS": 1, "DATASETS__CACHE_DIR": tmp_path / "cache",
                "TEST__EVAL_SAMPLING": "first"} | overrides  # fmt: skip
        with caplog.at_level(logging.INFO):
            assert train_main(tiny_argv("--overwrite", *flags, **keys)) == 0
        return torch.load(tmp_path / "run" / "clip_memory.pt", weights_only=True), TAKEN in caplog.text

    train.data, train.cache = data, tmp_path / "cache" / "memory_features"
    return train


def test_a_second_run_takes_the_features_of_the_first_to_the_last_bit(run, monkeypatch):
    first, taken = run()
    assert not taken and len(list(run.cache.iterdir())) == 1
    monkeypatch.setattr(processor_build, "memory_features", lambda *args: pytest.fail("the pass was made again"))
    again, taken = run(SOLVER__BASE_LR=1e-4)  # a key that the pass does not depend on
    assert taken and torch.equal(again, first)


@pytest.mark.parametrize("change", [
    {"SOLVER__SEED": 7},  # other random weights
    {"INPUT__SEQ_LEN": 3}, {"INPUT__PIXEL_MEAN": "[0.5,0.5,0.5]"}, {"INPUT__PIXEL_STD": "[0.5,0.5,0.5]"},
    {"INPUT__SIZE_TRAIN": "[40,16]", "INPUT__SIZE_TEST": "[40,16]"}, {"TEST__FRAMES_PER_BATCH": 6},
    {"MODEL__ENCODER__HEADS": 4}, {"SOLVER__AMP": "bf16"},
])  # fmt: skip
def test_other_weights_sizes_or_transforms_are_computed_anew(run, change):
    first, _ = run()
    second, taken = run(**change)
    assert not taken and len(list(run.cache.iterdir())) == 2
    if "TEST__FRAMES_PER_BATCH" not in change:  # which moves the last digits at most
        assert not torch.equal(first, second)


def test_another_image_under_the_same_name_is_computed_anew(run):
    first, _ = run()
    frames = sorted(path for path in run.data.rglob("*.jpg") if "train" in path.as_posix())
    state = frames[0].stat()
    shutil.copyfile(frames[-1], frames[0])
    os.utime(frames[0], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    second, taken = run()
    assert not taken and not torch.equal(first, second)


def test_a_list_with_fewer_frames_is_computed_anew(run, tmp_path):
    run()
    frame = sorted(path for path in run.data.rglob("*.jpg") if "train" in path.as_posix())[0]
    exclusions = tmp_path / "exclude.txt"
    exclusions.write_text(f"split,frame,reason\ntrain,{frame.relative_to(run.data).as_posix()},blurred\n")
    assert not run(DATASETS__EXCLUDE=exclusions)[1]


@pytest.mark.parametrize("damage", ["truncated", "changed", "of another key", "no tensor"])
def test_a_file_that_is_not_what_it_should_be_is_made_anew(run, damage, caplog):
    first, _ = run()
    (path,) = run.cache.iterdir()
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        content = torch.load(path, weights_only=True)
        if damage == "changed":
            content["features"][0, 0] += 1
        elif damage == "no tensor":
            content["features"] = [1, 2]
        else:
            content["description"] = content["description"].replace('"format": 1', '"format": 0')
        torch.save(content, path)
    again, taken = run()
    assert not taken and torch.equal(again, first) and "made anew" in caplog.text
    assert run()[1]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    features = cached_features(tmp_path / "cache", {"frames": "x"}, 2, lambda: torch.ones(2, 3))
    assert torch.equal(features, torch.ones(2, 3)) and "cannot be written" in caplog.text


def test_the_camera_embedding_does_not_matter_and_everything_else_does():
    cfg = load_cfg(opts=[part for pair in TINY_OPTIONS.items() for part in pair])
    model = build_model(cfg, 5, 3)
    before = describe_weights(model.encoder)
    with torch.no_grad():
        model.encoder.camera_embed += 1
    assert describe_weights(model.encoder) == before
    for parameter in model.encoder.vit.parameters():
        with torch.no_grad():
            parameter.flatten()[0] += 1e-3
        assert describe_weights(model.encoder) != before
        before = describe_weights(model.encoder)


def test_packages_that_decode_and_compute_are_part_of_the_key():
    described = memory_cache.describe_machine(torch.device("cpu"))
    assert described["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"pillow", "simplejpeg", "timm"} <= set(described) and described["device"].startswith("cpu")

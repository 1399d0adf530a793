"""The memory pass is made once for the same frames, weights and settings, and again for anything else."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from configs import load_cfg
from datasets.tracklet import ReIDSplits, Tracklet
from model import build_model
from processor.run import train_main
from processor.training import feature_cache, memory
from processor.training.feature_cache import cached_features, describe_frames, describe_weights
from tests.conftest import tiny_options

TAKEN = "taken from"


KEYS = {"SOLVER__MAX_EPOCHS": 1, "TEST__EVAL_SAMPLING": "first"}


@pytest.fixture(scope="module")
def first_run(tiny_mars, tmp_path_factory):
    """Folder with a run of one epoch and with the cache that it filled."""
    folder = tmp_path_factory.mktemp("first")
    places = {"DATASETS__ROOT_DIR": tiny_mars, "OUTPUT_DIR": folder / "run", "DATASETS__CACHE_DIR": folder / "cache"}
    assert train_main(tiny_options(**KEYS | places)) == 0
    return folder


@pytest.fixture
def first(first_run):
    """CLIP-Memory of the first run."""
    return torch.load(first_run / "run" / "clip_memory.pt", weights_only=True)


@pytest.fixture
def run(tiny_mars, first_run, tiny_argv, tmp_path, caplog):
    """Train on copies of the first run's data and cache -> (CLIP-Memory, whether it came from the cache)."""
    data = shutil.copytree(tiny_mars, tmp_path / "data", copy_function=shutil.copy2)
    shutil.copytree(first_run / "cache", tmp_path / "cache")

    def train(*flags, **overrides):
        caplog.clear()
        keys = KEYS | {"DATASETS__ROOT_DIR": data, "DATASETS__CACHE_DIR": tmp_path / "cache"} | overrides
        with caplog.at_level(logging.INFO):
            assert train_main(tiny_argv("--overwrite", *flags, **keys)) == 0
        return torch.load(tmp_path / "run" / "clip_memory.pt", weights_only=True), TAKEN in caplog.text

    train.data, train.cache = data, tmp_path / "cache" / "memory_features"
    return train


def test_a_second_run_takes_the_features_of_the_first_to_the_last_bit(first_run, first, run, monkeypatch):
    assert TAKEN not in (first_run / "run" / "train_log.txt").read_text() and len(list(run.cache.iterdir())) == 1
    monkeypatch.setattr(memory, "compute_tracklet_features", lambda *args: pytest.fail("the pass was made again"))
    again, taken = run(SOLVER__BASE_LR=1e-4)  # a key that the pass does not depend on
    assert taken and torch.equal(again, first)


@pytest.mark.parametrize("change", [
    {"SOLVER__SEED": 7},  # other random weights
    {"INPUT__SEQ_LEN": 3}, {"INPUT__PIXEL_MEAN": "[0.5,0.5,0.5]"}, {"INPUT__PIXEL_STD": "[0.5,0.5,0.5]"},
    {"INPUT__SIZE_TRAIN": "[40,16]", "INPUT__SIZE_TEST": "[40,16]"}, {"TEST__FRAMES_PER_BATCH": 6},
    {"MODEL__ENCODER__HEADS": 4}, {"SOLVER__AMP": "bf16"},
])  # fmt: skip
def test_other_weights_sizes_or_transforms_are_computed_anew(first, run, change):
    second, taken = run(**change)
    assert not taken and len(list(run.cache.iterdir())) == 2
    if "TEST__FRAMES_PER_BATCH" not in change:  # which moves the last digits at most
        assert not torch.equal(first, second)


@pytest.mark.parametrize("changed", ["time", "size"])
def test_another_image_under_the_same_name_is_computed_anew(first, run, changed):
    frames = sorted(path for path in run.data.rglob("*.jpg") if "train" in path.as_posix())
    state, size = frames[0].stat(), frames[0].stat().st_size
    content = next(f.read_bytes() for f in frames[::-1] if f.read_bytes() != frames[0].read_bytes())
    if changed == "time":  # what follows the end of a JPEG is not looked at
        content = content[:size] if len(content) > size else content + bytes(size - len(content))
        frames[0].write_bytes(content)
        os.utime(frames[0], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        assert frames[0].stat().st_size == size
    else:
        frames[0].write_bytes(content + bytes(size + 1 - len(content)) if len(content) <= size else content)
        os.utime(frames[0], ns=(state.st_atime_ns, state.st_mtime_ns))
        assert frames[0].stat().st_size != size
    second, taken = run()
    assert not taken and not torch.equal(first, second)


def splits_of(*tracklets: tuple[tuple[str, ...], int]) -> ReIDSplits:
    train = tuple(Tracklet(tuple(f"/data/{name}" for name in names), pid, 0) for names, pid in tracklets)
    return ReIDSplits(train, (), (), 2, 1, gallery_includes_query=True, root="/data")


def test_the_same_frames_in_other_tracklets_are_other_frames():
    described = [
        describe_frames(splits_of((("a", "b"), 0), (("c",), 0))),
        describe_frames(splits_of((("a",), 0), (("b", "c"), 0))),
        describe_frames(splits_of((("a", "b"), 0), (("c",), 1))),
        describe_frames(splits_of((("b", "a"), 0), (("c",), 0))),
        describe_frames(splits_of((("ab",), 0), (("c",), 0))),
    ]
    assert len(set(described)) == len(described)
    assert described[0] == describe_frames(splits_of((("a", "b"), 0), (("c",), 0)))


def test_features_of_another_number_of_tracklets_are_not_used(tmp_path, caplog):
    cached_features(tmp_path, {"frames": "x"}, 2, lambda: torch.ones(2, 3))
    again = cached_features(tmp_path, {"frames": "x"}, 3, lambda: torch.zeros(3, 3))
    assert torch.equal(again, torch.zeros(3, 3)) and "computed anew" in caplog.text


def test_changed_code_of_the_pass_is_another_key(tmp_path):
    root = Path(feature_cache.__file__).parents[2]
    for room in ("model", "datasets", "processor", "utils"):
        shutil.copytree(root / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    before = feature_cache.describe_code(tmp_path)
    assert before == feature_cache.describe_code()
    for name in ("model/tfclip.py", "model/encoder.py", "datasets/clips/transforms.py", "datasets/clips/sampling.py",
                 "processor/evaluation/tracklet_pass.py", "utils/group_means.py"):  # fmt: skip
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
        after = feature_cache.describe_code(tmp_path)
        assert after != before, name
        before = after


def test_a_list_with_fewer_frames_is_computed_anew(run, tmp_path):
    frame = sorted(path for path in run.data.rglob("*.jpg") if "train" in path.as_posix())[0]
    exclusions = tmp_path / "exclude.txt"
    exclusions.write_text(f"split,frame,reason\ntrain,{frame.relative_to(run.data).as_posix()},blurred\n")
    assert not run(DATASETS__EXCLUDE=exclusions)[1]


@pytest.mark.parametrize("damage", ["truncated", "changed", "of another key", "no tensor"])
def test_a_file_that_is_not_what_it_should_be_is_made_anew(first, run, damage, caplog):
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
    assert not taken and torch.equal(again, first) and "computed anew" in caplog.text
    assert run()[1]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    features = cached_features(tmp_path / "cache", {"frames": "x"}, 2, lambda: torch.ones(2, 3))
    assert torch.equal(features, torch.ones(2, 3))
    (line,) = caplog.messages
    assert line.count(str(tmp_path)) == 1 and "DATASETS.CACHE_DIR" in line
    path = tmp_path / "other" / "memory_features"
    cached_features(tmp_path / "other", {"frames": "x"}, 2, lambda: torch.ones(2, 3))
    (file,) = path.iterdir()
    file.unlink()
    file.mkdir()
    caplog.clear()
    cached_features(tmp_path / "other", {"frames": "x"}, 2, lambda: torch.ones(2, 3))
    assert caplog.messages[-1].count(str(file)) == 1 and "cannot be written" in caplog.messages[-1]


def test_the_camera_embedding_does_not_matter_and_everything_else_does():
    cfg = load_cfg(opts=tiny_options())
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
    described = feature_cache.describe_machine(torch.device("cpu"))
    assert described["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"pillow", "simplejpeg", "timm"} <= set(described) and described["device"].startswith("cpu")

"""Tracklet features are computed once for the same frames, weights and settings, and again for anything else."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from datasets.tracklet import ReIDSplits, Tracklet
from model import build_model
from processor.run import train_main
from processor.training import feature_cache, memory
from processor.training.feature_cache import cached_features, describe_frames, describe_weights
from tests.conftest import load, tiny_cfg, tiny_options

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
    return load(first_run / "run" / "clip_memory.pt")


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
        return load(tmp_path / "run" / "clip_memory.pt"), TAKEN in caplog.text

    train.data, train.cache = data, tmp_path / "cache" / "memory_features"
    return train


def test_a_second_run_takes_the_features_of_the_first_to_the_last_bit(first_run, first, run, monkeypatch):
    assert TAKEN not in (first_run / "run" / "train_log.txt").read_text() and len(list(run.cache.iterdir())) == 1
    monkeypatch.setattr(memory, "compute_tracklet_features", lambda *args: pytest.fail("the pass was made again"))
    # Neither changes what the pass computes: 'auto' means the keys here.
    again, taken = run(SOLVER__BASE_LR=1e-4, INPUT__PIXEL_STATISTICS="keys")
    assert taken and torch.equal(again, first)


@pytest.mark.parametrize("change", [
    {"SOLVER__SEED": 7},  # other random weights
    {"INPUT__SEQ_LEN": 3}, {"INPUT__PIXEL_MEAN": "[0.5,0.5,0.5]"}, {"INPUT__PIXEL_STD": "[0.5,0.5,0.5]"},
    {"INPUT__PIXEL_STATISTICS": "weights"},
    {"INPUT__SIZE_TRAIN": "[40,16]", "INPUT__SIZE_TEST": "[40,16]"}, {"TEST__FRAMES_PER_BATCH": 6},
    {"MODEL__ENCODER__HEADS": 4}, {"SOLVER__MEMORY_PRECISION": "bf16"},
])  # fmt: skip
def test_other_weights_sizes_or_transforms_are_computed_anew(first, run, change):
    second, taken = run(**change)
    assert not taken and len(list(run.cache.iterdir())) == 2
    if "TEST__FRAMES_PER_BATCH" not in change:  # which moves the last digits at most
        assert not torch.equal(first, second)


def described(*tracklets: tuple[str, int], root: str = "/data") -> str:
    """`describe_frames` of tracklets (names of frames, label)."""
    train = tuple(Tracklet(tuple(f"{root}/{name}" for name in names.split()), pid, 0) for names, pid in tracklets)
    return describe_frames(ReIDSplits(train, (), (), 2, 1, gallery_includes_query=True, root=root))


def test_the_same_frames_in_other_tracklets_are_other_frames():
    tracklets = [("a b", 0), ("c", 0)]
    others = [[("a", 0), ("b c", 0)], [("a b", 0), ("c", 1)], [("b a", 0), ("c", 0)], [("ab", 0), ("c", 0)]]
    assert len({described(*given) for given in [tracklets, *others]}) == 5
    assert described(*tracklets) == described(*tracklets)


def test_size_and_time_of_an_image_count(tmp_path):
    found = set()
    for content, time in ((b"one", 1), (b"one", 2), (b"longer", 2)):
        (tmp_path / "a").write_bytes(content)
        os.utime(tmp_path / "a", ns=(1, time))
        found.add(described(("a", 0), root=str(tmp_path)))
    assert len(found) == 3


def test_another_image_and_a_list_with_fewer_frames_are_computed_anew(first, run, tmp_path):
    frame, *_, other = sorted(path for path in run.data.rglob("*.jpg") if "train" in path.as_posix())
    shutil.copy(other, frame)
    second, taken = run()
    assert not taken and not torch.equal(first, second)
    exclusions = tmp_path / "exclude.txt"
    exclusions.write_text(f"split,frame,reason\ntrain,{frame.relative_to(run.data).as_posix()},blurred\n")
    assert not run(DATASETS__EXCLUDE=exclusions)[1]


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


def cached(cache, value, rows=2):
    """`cached_features` where a pass would give `rows` features full of `value`."""
    return cached_features(cache, {"frames": "x"}, rows, lambda: torch.full((rows, 3), value))


@pytest.mark.parametrize("damage", ["truncated", "changed", "of another key", "no tensor", "of fewer tracklets"])
def test_a_file_that_is_not_what_it_should_be_is_made_anew(damage, tmp_path, caplog):
    cached(tmp_path, 1.0, rows=1 if damage == "of fewer tracklets" else 2)
    (path,) = (tmp_path / "memory_features").iterdir()
    content = load(path)
    if damage == "changed":
        content["features"][0, 0] += 1
    elif damage == "no tensor":
        content["features"] = [1, 2]
    elif damage == "of another key":
        content["description"] = content["description"].replace('"format": 1', '"format": 0')
    torch.save(content, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    assert torch.equal(cached(tmp_path, 2.0), torch.full((2, 3), 2.0)) and "computed anew" in caplog.text
    assert torch.equal(cached(tmp_path, 3.0), torch.full((2, 3), 2.0))


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    taken, cache = tmp_path / "taken", tmp_path / "cache"
    taken.write_text("a file")
    assert torch.equal(cached(taken, 1.0), torch.ones(2, 3))
    assert str(taken) in caplog.text and "DATASETS.CACHE_DIR" in caplog.text
    cached(cache, 1.0)
    (file,) = (cache / "memory_features").iterdir()
    file.unlink()
    file.mkdir()
    assert torch.equal(cached(cache, 1.0), torch.ones(2, 3)) and f"{file} cannot be written" in caplog.text


def test_the_camera_embedding_does_not_matter_and_everything_else_does():
    model = build_model(tiny_cfg(), 5, 3)
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

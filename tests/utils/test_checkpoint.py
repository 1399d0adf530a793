"""Checkpoints that are whole and sound, or refused in one line."""

import random
import re
from dataclasses import replace

import pytest
import torch

from solver import build_lr_schedule, build_optimizer
from tests.conftest import load, tiny_cfg, tiny_model
from tests.reference import DATA
from utils.checkpoint import Checkpoint
from utils.errors import InputError, MissingFileError, NonFiniteLossError
from utils.seed import get_rng_state, set_rng_state

EARLIER = DATA / "earlier_run" / "last.pth"  # real: one epoch of an earlier version
NAN = float("nan")
METERS = {"names": ["id"], "sums": torch.tensor([2.5], dtype=torch.float64), "count": 3, "seconds": 0.5}


def refusal(path) -> str:
    """The one line that refuses the file."""
    with pytest.raises(InputError) as caught:
        Checkpoint.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def same(a, b) -> bool:
    """Bit for bit the same tensors and plain Python."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    return type(a) is type(b) and a == b


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = replace(
        Checkpoint.load(EARLIER), rng=get_rng_state(), step=3, meters=METERS, rank_rng=[get_rng_state()]
    )
    state.save(tmp_path / "last.pth")
    loaded = Checkpoint.load(tmp_path / "last.pth")
    assert same(vars(loaded), vars(state)) and Checkpoint.load(EARLIER).step == 0
    set_rng_state(loaded.rng)  # plain enough for weights_only, complete enough to restore


def test_content_that_cannot_be_saved_leaves_the_old_checkpoint(tmp_path):
    path, state = tmp_path / "last.pth", Checkpoint.load(EARLIER)
    state.save(path)
    with pytest.raises(Exception, match="pickle|lambda"):
        replace(state, epoch=lambda: 2).save(path)
    assert same(vars(Checkpoint.load(path)), vars(state)) and [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_a_missing_truncated_or_incomplete_checkpoint_is_named_in_one_line(tmp_path):
    path, whole = tmp_path / "last.pth", EARLIER.read_bytes()
    with pytest.raises(MissingFileError, match="last.pth does not exist.*without --resume"):
        Checkpoint.load(path)
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"words"):
        path.write_bytes(content)
        assert refusal(path).endswith("last.pth cannot be read; it is truncated, damaged or no checkpoint")
    content = load(EARLIER)
    torch.save({name: value for name, value in content.items() if name not in ("history", "config")}, path)
    assert refusal(path).endswith("last.pth cannot be resumed: it lacks history, config")
    torch.save([1, 2], path)
    assert "last.pth cannot be resumed: it lacks model" in refusal(path)


def test_every_damaged_file_is_refused_or_has_the_very_same_content(tmp_path):
    """A byte anywhere, in the headers or the table of contents, or the end cut off."""
    whole, sound, draw = EARLIER.read_bytes(), vars(Checkpoint.load(EARLIER)), random.Random(0)
    path, size, refused = tmp_path / "last.pth", len(EARLIER.read_bytes()), 0
    files = [whole[: draw.randrange(size)] for _ in range(20)]
    for place in [draw.randrange(size) for _ in range(60)] + [draw.randrange(size - 20_000, size) for _ in range(40)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        files.append(damaged)
    for content in files:
        path.write_bytes(content)
        try:
            state = Checkpoint.load(path)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert same(vars(state), sound)
    assert refused > 80


def put(tree, place, value):
    """A copy of nested dicts, lists and tuples with another value at a place."""
    if not place:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[place[0]] = put(copy[place[0]], place[1:], value)
    return tuple(copy) if isinstance(tree, tuple) else copy


WRONG = {
    "model": [5, {}, {"a": 1}, {1: torch.ones(1)}, {"a": torch.ones(2).to_sparse()}],
    "optimizer": [None, {}, {"state": {}, "param_groups": 3}, {"state": [], "param_groups": []}],
    "optimizer.state": [3, {999: {}}, {0: 1}, {0: {"step": "x"}}, {"0": {}}],
    "optimizer.param_groups": [[], [{}], [{"params": [0]}], [{"params": "x", "lr": 1.0}]],
    "optimizer.param_groups.0.lr": [None, "x", NAN, torch.ones(1)],
    "lr_schedule": [[], {}, {"last_epoch": 1}],
    "lr_schedule.last_epoch": ["1", 1.0, -1, True, 7],
    "lr_schedule.base_lrs": [None, ["x"], [0.1]],
    "lr_schedule._last_lr": [None, 0.1],
    "lr_schedule._is_initial": ["no"],
    "scaler": [None, [], {"scale": 1.0}],
    "clip_memory": [5, torch.ones(3), torch.ones(2, 2).long(), torch.ones(2, 2).double(), torch.full((2, 2), NAN)],
    "epoch": [None, -1, 1.0, "1", True, torch.ones(1), 2, 10**30],
    "best": [None, 5, {"epoch": 1}, {"epoch": 9, "score": 1.0}, {"epoch": 1, "score": "x"}],
    "history": [None, {}, [], [5], [{"epoch": 2}], [{"epoch": 1, "lr": "x"}], [{"epoch": 1, 5: 1.0}]],
    "untrained": [5, {}, {"mAP": "x"}, {"mAP": 0.5, "ci95": {"mAP": (0.1,)}}, {"mAP": torch.ones(1)}],
    "rng": [None, {}, {"python": 1}],
    "rng.python": [None, [3, [1, 2], None]],
    "rng.python.1": [[1.5] * 625, [-1] * 625, None],
    "rng.numpy": [None, ["x"] * 5],
    "rng.numpy.1": [torch.ones(3).long(), torch.ones(624), None],
    "rng.numpy.2": [10**6, -1, None],  # NumPy takes the first, and reads what lies there
    "rng.torch": [None, torch.ones(3), torch.ones(3, dtype=torch.uint8)],
    "rng.cuda": [None, 5, [torch.ones(16)]],
    "config": [None, 5, "words", "[1, 2]", "a: [", "5: 6"],
    "precision": [None, 5],
    "cameras": [
        5,
        {},
        {"dataset": "MARS", "names": "x", "trained": [0]},
        {"dataset": 1, "names": ["1"], "trained": [0]},
    ],
    "cameras.trained": [None, [99], ["0"]],
    "train_list": [None, 5],
    "step": [None, -1, 1.5],
    "skipped": [None, -1, 1.5],
    "meters": [5, {"names": ["id"]}, METERS | {"count": -1}, METERS | {"sums": torch.ones(2)}],
    "rank_rng": [5, {}, [5], [{}]],
}


@pytest.mark.parametrize("place", WRONG)
def test_a_field_of_a_wrong_form_is_named_in_one_line(place, tmp_path):
    sound = load(EARLIER) | {"step": 0, "skipped": 0, "meters": None, "rank_rng": None}
    path = tuple(int(part) if part.isdigit() else part for part in place.split("."))
    for value in WRONG[place]:
        torch.save(put(sound, path, value), tmp_path / "last.pth")
        line = refusal(tmp_path / "last.pth")
        assert re.search(rf"cannot be resumed: (fields? .*{path[0]}|clip_memory)", line), (value, line)


@pytest.fixture
def own():
    """The model of the earlier run, its optimiser with state, and a checkpoint of both."""
    cfg, model = tiny_cfg(), tiny_model(6, 6)
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_schedule(cfg, optimizer)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    schedule.step()
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr_schedule": schedule.state_dict()}
    return replace(Checkpoint.load(EARLIER), **parts), model, optimizer


MISFITS = {
    "model.encoder\\.vit\\.norm\\.weight": [torch.ones(3), torch.ones(64).double()],
    "optimizer.param_groups": [[]],
    "optimizer.param_groups.0.betas": [(0.9, "x"), (0.9, 0.9)],
    "optimizer.param_groups.1.weight_decay": [None, 1.0],
    "optimizer.param_groups.1.maximize": [True, "x"],
    "optimizer.param_groups.1.lr": [3.0],
    "optimizer.state.0": [{}, {"step": torch.tensor(1.0)}],
    "optimizer.state.1.exp_avg": [torch.ones(2), 1.0],
    "optimizer.state.1.exp_avg_sq": [torch.ones(1, 1, 64).half()],
    "optimizer.state.1.step": [torch.ones(2), 3.5],
    "lr_schedule.base_lrs": [[0.1] * 4],
    "clip_memory": [None, torch.ones(5, 64)],
}


def test_what_depends_on_the_model_is_compared_with_it(own):
    state, model, optimizer = own
    state.check_fits(EARLIER, model, optimizer, (6, 64))
    for place, values in MISFITS.items():
        path = [int(part) if part.isdigit() else part.replace("\\", "") for part in re.split(r"(?<!\\)\.", place)]
        for value in values:
            changed = replace(state, **{path[0]: put(getattr(state, path[0]), path[1:], value)})
            with pytest.raises(InputError, match=f"last.pth cannot be resumed: field {path[0]}|lr_schedule") as caught:
                changed.check_fits(EARLIER, model, optimizer, (6, 64))
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="clip_memory: its shape is .6, 64., None in this run"):
        state.check_fits(EARLIER, model, optimizer, None)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_neither_saved_nor_taken_up(value, own, tmp_path):
    path, (state, *_) = tmp_path / "last.pth", own
    with pytest.raises(NonFiniteLossError, match="last.pth is not written"):
        replace(state, clip_memory=torch.tensor([[value]])).save(path)
    state.save(path)
    before = path.read_bytes()
    for place in ("model.neck_g\\.weight", "optimizer.state.1.exp_avg_sq", "clip_memory"):
        parts = [int(part) if part.isdigit() else part.replace("\\", "") for part in re.split(r"(?<!\\)\.", place)]
        bad = put(vars(state), parts, torch.full((6, 64), value))
        with pytest.raises(
            NonFiniteLossError, match="after epoch 1 .* of the state holds inf or nan; .*keeps"
        ) as caught:
            Checkpoint(**bad).save(path)
        assert "keeps the state after epoch 1; lower SOLVER.BASE_LR" in str(caught.value)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pth"]
        torch.save(bad, tmp_path / "bad.pth")
        assert refusal(tmp_path / "bad.pth").endswith("of the state holds inf or nan")
        (tmp_path / "bad.pth").unlink()
    largest = torch.full((6, 64), torch.finfo(torch.float32).max)  # finite, although its square is not
    replace(state, clip_memory=largest).save(path)

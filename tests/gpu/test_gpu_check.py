"""What needs a real GPU: `make gpu-check`. Each body also runs on a CPU, at a tiny size (tests/gpu/conftest.py)."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torch import nn

from configs import load_cfg
from model import build_model
from model.compiled import check_compiler, compile_clip_features
from model.weights import fill_model
from model.weights.file import WeightFile
from processor.benchmark.table import number_text
from processor.colour_baseline import score_colours
from processor.experiment import prepare
from processor.runtime import Runtime
from processor.training.epoch import FiniteCheck
from processor.training.step import TrainingStep
from solver import build_optimizer
from tests import test_release_agreement as release_case
from tests.conftest import ROOT, load, metrics, read_csv, tiny_cfg, tiny_options
from tests.gpu.conftest import DEVICE, ON_GPU
from tests.processor.training.test_step import CAMIDS, LAYERS, PIDS, normalize, parts_of_a_step
from tests.reference import DATA, inputs, published_state
from tests.tolerance import TINY_SUM, allowed, largest
from utils.errors import InputError
from utils.meters import Meters
from utils.metrics import SCORES, rank_features

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a GPU"),
]
GRADIENT = 3  # passes through the layers: forwards, and backwards twice the work


def command(*parts: object) -> str:
    """Run a command of the project with this interpreter; its output, or a failure with the end of it."""
    done = subprocess.run([sys.executable, *map(str, parts)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def train(out: Path, *options: object) -> Path:
    """train-main.py in a process of its own; its folder."""
    command("train-main.py", *options, "OUTPUT_DIR", out)
    return out


@pytest.fixture(scope="module")
def demo(tmp_path_factory, tiny_mars) -> list[object]:
    """Options of the demo on its data; on a CPU of the tiny model."""
    if not ON_GPU:
        return [*tiny_options(DATASETS__ROOT_DIR=tiny_mars)]
    root = tmp_path_factory.mktemp("demo") / "synthetic-mars"
    command("-m", "datasets.synthetic", "--root", root)
    return ["--config_file", ROOT / "configs/demo.yml", "DATASETS.ROOT_DIR", root]


@pytest.fixture(scope="module")
def colour_map(demo) -> float:
    """mAP of the colour baseline on the same data."""
    opts = [str(option) for option in demo]
    file = opts.pop(1) if opts[0] == "--config_file" and opts.pop(0) else None
    experiment = prepare(load_cfg(file, opts), Path("unused"))
    splits, size = experiment.splits, experiment.cfg.INPUT.SIZE_TEST
    return score_colours(splits.query, splits.gallery, size, experiment.protocol("dense")).metrics["mAP"]


@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_demo_training(amp, demo, colour_map, tmp_path, row):
    """Finite losses and, on a GPU, more than colours give; on a CPU a loss that falls."""
    if amp == "fp16" and not ON_GPU:
        pytest.skip("fp16 needs a GPU")
    out = train(tmp_path / "run", *demo, "SOLVER.AMP", amp)
    history, found = read_csv(out / "history.csv"), metrics(out)["mAP"]
    losses = [float(epoch[name]) for epoch in history for name in epoch if name.startswith("loss_")]
    total = [float(epoch["loss_total"]) for epoch in history]
    row(f"mAP {100 * found:.1f} %, loss {total[0]:.2f} to {total[-1]:.2f}", f"colours: mAP {100 * colour_map:.1f} %")
    assert all(map(math.isfinite, losses)) and total[-1] < total[0]
    assert found > colour_map or not ON_GPU


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_features_of_the_release(precision, row):
    """The release's numbers, within what the number type rounds: of TF32 as of fp16, which keeps 10 bits as well."""
    if precision in ("tf32", "fp16") and not ON_GPU:
        pytest.skip(f"{precision} needs a GPU")
    cfg, case = load_cfg(opts=release_case.OPTIONS), release_case
    model = build_model(cfg, case.NUM_CLASSES, case.NUM_CAMERAS)
    state = published_state(case.NUM_CLASSES, case.NUM_CAMERAS, 64, 32)
    fill_model(model, WeightFile("published", state), "reference", allow_skipped=False)
    model.to(DEVICE).eval()
    runtime = Runtime(DEVICE, None, nn.Identity()).with_precision(precision, "TEST.PRECISION")
    with np.load(DATA / "release_small.npz") as file, torch.inference_mode(), runtime.autocast():
        clips, camids = inputs("dev/x_eval", case.EVAL_SHAPE).to(DEVICE), torch.from_numpy(file["eval_cam"]).long()
        found = {"eval_feat": model.embed(clips, camids.to(DEVICE)), "memory_feat": model.encode_memory(clips)}
        expected = {name: torch.from_numpy(file[name]) for name in found}
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16}.get(precision, torch.float16)
    for name, feature in found.items():
        error = largest(feature.float().cpu() - expected[name])
        limit = allowed(largest(expected[name]), case.LONGEST_SUM, case.LAYERS, dtype)
        limit = min(limit, 0.1 * largest(expected[name]))  # the rule is wide for 8 bits
        row(f"{name}: largest difference {error:.2e}", f"{limit:.2e}")
        assert error < limit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_step_never_waits_for_the_device(num_parts, dtype, row):
    if dtype is torch.float16 and not ON_GPU:
        pytest.skip("fp16 needs a GPU")
    model, criterion, memory, clips = parts_of_a_step()
    runtime, model = Runtime(DEVICE, dtype, normalize), model.to(DEVICE)
    erase = RandomErasing(0.5, mode="pixel", max_count=1, device=DEVICE)
    compute = TrainingStep(model.clip_features, model.classify, criterion, memory.to(DEVICE), runtime, num_parts, erase)
    optimizer, scaler = build_optimizer(tiny_cfg(), model), runtime.grad_scaler()
    meters, finite = Meters(), FiniteCheck(1)
    batch = [tensor.pin_memory() if ON_GPU else tensor for tensor in (clips, PIDS, CAMIDS)]

    def step(number: int) -> None:
        moved = runtime.move(*batch)
        optimizer.zero_grad(set_to_none=True)
        losses = compute(*moved, scaler.scale)
        finite.add(losses, number)
        scaler.step(optimizer)
        scaler.update()
        meters.update(losses)

    for number in range(3):  # warm-up: lazy buffers and kernels
        step(number)
    if ON_GPU:
        torch.cuda.set_sync_debug_mode("error")
    try:
        step(3)
    finally:
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")
    finite.finish()
    row(f"mean loss {meters.means()['total']:.2f}", "no wait for the device")


def gradients_of(clip_features, model, criterion, memory, clips, num_parts) -> torch.Tensor:
    """All gradients of one step in one row, and the losses' total behind them."""
    runtime = Runtime(DEVICE, None, normalize)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(4)
    step = TrainingStep(clip_features, model.classify, criterion, memory.to(DEVICE), runtime, num_parts)
    losses = step(*runtime.move(clips, PIDS, CAMIDS), lambda loss: loss)
    grads = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return torch.cat([*grads, losses["total"].detach()[None]]).cpu()


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("dropout", [False, True], ids=["no dropout", "dropout"])
def test_compiled_gradients(dropout, num_parts, row):
    """Those of the eager step. With dropout too where masks are drawn alike; on a GPU they may depend on strides, so
    there the figure is only shown.
    """
    try:
        check_compiler(DEVICE)
    except InputError as error:
        pytest.skip(error.line)
    model, *rest = parts_of_a_step(dropout, MODEL__ENCODER__DEPTH=1, MODEL__SSP__LAYERS=1)
    model.to(DEVICE)
    eager = gradients_of(model.clip_features, model, *rest, num_parts)
    compiled = gradients_of(compile_clip_features(model), model, *rest, num_parts)
    error, limit = float((compiled - eager).norm()), allowed(float(eager.norm()), TINY_SUM, GRADIENT * LAYERS)
    shown = dropout and ON_GPU
    row(f"relative difference {error / float(eager.norm()):.1e}", "none" if shown else f"{limit / eager.norm():.1e}")
    assert compiled.isfinite().all() and (shown or error < limit)


def test_both_passes_of_compiled_parts_drop_the_same(row):
    """The pass without a graph and the one with it: other masks would make SOLVER.ACCUM_STEPS' gradient a wrong one."""
    try:
        check_compiler(DEVICE)
    except InputError as error:
        pytest.skip(error.line)
    model, _, memory, clips = parts_of_a_step(MODEL__ENCODER__DEPTH=1, MODEL__SSP__LAYERS=1)
    compiled = compile_clip_features(model.to(DEVICE))
    given, logits = [tensor.to(DEVICE) for tensor in (normalize(clips), CAMIDS, memory)], []
    for graph in (False, True):
        torch.manual_seed(4)
        with torch.set_grad_enabled(graph):
            logits.append(compiled(*given).v2m_logits.detach().cpu())
    error, limit = largest(logits[1] - logits[0]), allowed(largest(logits[0]), TINY_SUM, LAYERS)
    row(f"largest difference of V2M logits {error:.1e}", f"{limit:.1e}")
    assert error < limit


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(demo, tmp_path, row):
    options = [*demo, "SOLVER.DETERMINISTIC", True, "TEST.SAMPLING", "first", "SOLVER.EVAL_PERIOD", 1]
    options += ["SOLVER.AMP", "bf16"]
    whole = train(tmp_path / "whole", *options, "SOLVER.MAX_EPOCHS", 2)
    train(tmp_path / "resumed", *options, "SOLVER.MAX_EPOCHS", 1)
    resumed = train(tmp_path / "resumed", "--resume", *options, "SOLVER.MAX_EPOCHS", 2)
    states = [load(out / "last.pth")["model"] for out in (whole, resumed)]
    other = [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]
    row(f"{len(other)} of {len(states[0])} tensors differ", "0")
    assert other == []


def test_ranking_is_that_of_the_cpu(row):
    """Features whose products are exact in float32, but not in TF32: scores and positions are equal."""
    rng = np.random.default_rng(0)
    queries, gallery = (1980, 11310) if ON_GPU else (50, 300)
    features = np.zeros((gallery, 8), dtype=np.float32)
    features[:, 0] = rng.integers(0, 2896, gallery)  # squares of at most 2**23
    pids, cameras = rng.integers(0, gallery // 20, gallery), rng.integers(0, 6, gallery)
    given = (features[:queries], features, pids[:queries], pids, cameras[:queries], cameras)
    found, expected = (
        rank_features(*given, own_rows=np.arange(queries), device=d) for d in (DEVICE, torch.device("cpu"))
    )
    differing = [name for name in SCORES if found[name] != expected[name]]
    row(f"{len(differing)} of {len(SCORES)} scores differ", "0")
    assert differing == [] and np.array_equal(found["cmc"], expected["cmc"])


def test_two_ranks_train_as_one_process(demo, tmp_path, row):
    """Losses of the first epochs, without dropout, whose masks are each rank's own; on a CPU one rank."""
    ranks = 2 if ON_GPU else 1
    if ON_GPU and torch.cuda.device_count() < ranks:
        pytest.skip("needs two GPUs")
    options = [*demo, "SOLVER.AMP", "off", "MODEL.SSP.ENABLED", False, "SOLVER.MAX_EPOCHS", 2, "SOLVER.STEPS", "[]"]
    one = train(tmp_path / "one", *options)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", ranks]
    command(*launch, "train-main.py", *options, "OUTPUT_DIR", tmp_path / "two")
    tables = [read_csv(out / "history.csv") for out in (one, tmp_path / "two")]
    errors = [
        abs(float(a[name]) - float(b[name])) / max(1, abs(float(a[name])))
        for a, b in zip(*tables, strict=True)
        for name in a
        if name.startswith("loss_")
    ]
    row(f"largest relative difference of a loss {max(errors):.1e}, {ranks} ranks", "1.0e-02")
    assert max(errors) < 1e-2


def test_benchmark(tmp_path, row, below_the_table):
    """The table for docs/benchmarks.md."""
    sizes = ["--full"] if ON_GPU else ["--parts", "rank"]
    command("-m", "processor.benchmark", *sizes, "--json", tmp_path / "numbers.json")
    lines = json.loads((tmp_path / "numbers.json").read_text())["measurements"]
    row(f"{len(lines)} lines", "below")
    table = ["", "| part | what | value | unit | limit | its value | of limit |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        cells = (number_text(cell) if isinstance(cell, float) else str(cell or "") for cell in line.values())
        table.append(f"| {' | '.join(cells)} |")
    below_the_table("\n".join(table))
    assert lines

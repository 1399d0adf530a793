"""The whole of training and testing on a GPU without one: see tests/gpu/fake.py."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing

from datasets.clips import Normalize
from loss import build_criterion
from model import build_model
from model.clip_memory import build_clip_memory
from model.text_encoder import TextSizes, create_text_tower
from model.text_prompt import TextBranch, TextPrompts
from processor.evaluation import means_of_loader
from processor.runtime import Runtime
from processor.training.step import TrainingStep
from processor.training.text_stage import TextRecipe, learn_text_features
from solver import build_optimizer
from tests.conftest import tiny_cfg
from tests.gpu.fake import CPU, GPU, FakeGpu, Watch, backward_by_nodes
from utils.group_means import GroupMeans
from utils.meters import Meters
from utils.metrics import rank_features
from utils.ranking import device_match_positions

NUM_CLASSES, NUM_CAMERAS, CLIPS = 5, 3, 4
NO_MEMORY = {"MODEL__MEMORY": "none", "MODEL__SSP__ENABLED": False}
SIZES = {"MODEL__STRIDE_SIZE": "[16, 16]", "INPUT__SIZE_TRAIN": "[64, 32]", "INPUT__SIZE_TEST": "[64, 32]"}
SIZES |= {f"MODEL__ENCODER__{key}": 0 for key in ("WIDTH", "DEPTH", "HEADS", "PATCH", "EMBED")}
RN50 = SIZES | {"MODEL__NAME": "RN50", "MODEL__SIE_CAMERA": False}
CHECKPOINT = {"MODEL__GRAD_CHECKPOINT": True}
TEMPORAL = [{"MODEL__TEMPORAL": name} for name in ("TMD", "TAP", "CONV1D", "CONV1D_VIEW", "TRANSF", "TRANSF_CLS")]
OTHERS = [
    NO_MEMORY,
    {"MODEL__SSP__ENABLED": False},  # MODEL.MEMORY text and clip are the same (C, E) to the step
    {"MODEL__SSP__VARIANT": "simple"},
    CHECKPOINT,
    {"MODEL__TRIPLET_PENULTIMATE": True, "MODEL__SIE_CAMERA": False},
    {"MODEL__TMD__TMC": False},
    {"MODEL__TMD__MD": False},
]
CNN = [RN50, RN50 | CHECKPOINT | {"MODEL__TEMPORAL": "TAP"}]


def name_of(value) -> str:
    """Of one parameter: the options that differ from the tiny model's, without the sizes."""
    if not isinstance(value, dict):
        return str(value)
    shown = {key: v for key, v in value.items() if RN50.get(key) != v or key == "MODEL__NAME"}
    return ",".join(f"{key.split('__')[-1]}={v}" for key, v in shown.items()) or "default"


def build(gpu, dtype=torch.bfloat16, **options):
    """Config, model on the GPU and runtime."""
    cfg = tiny_cfg(**options)
    model = gpu.module(lambda: build_model(cfg, NUM_CLASSES, NUM_CAMERAS, pretrained=False))
    return cfg, model, Runtime(GPU, dtype, gpu.module(lambda: Normalize([0.5] * 3, [0.5] * 3)))


def batch_of(gpu, cfg):
    """uint8 clips (B, T, 3, H, W) and two rows of integers (B,), as a loader gives them."""
    shape = (CLIPS, cfg.INPUT.SEQ_LEN, 3, *cfg.INPUT.SIZE_TRAIN)
    rows = [gpu.tensor(CLIPS, dtype=torch.int64, device=CPU) for _ in range(2)]
    return gpu.tensor(*shape, dtype=torch.uint8, device=CPU), *rows


def train_on(gpu, cfg, model, runtime, num_parts=1):
    """One training step as the epoch takes it; nothing in it may wait for the GPU."""
    memory = None if cfg.MODEL.MEMORY == "none" else gpu.tensor(NUM_CLASSES, model.encoder.embed_width)
    batch = batch_of(gpu, cfg)
    optimizer, meters = build_optimizer(cfg, model.train()), Meters()
    erase = RandomErasing(0.9, mode="pixel", max_count=1, device=GPU)
    with gpu.running() as watch:
        scaler = runtime.grad_scaler()
        halves = model.clip_features, model.classify
        compute = TrainingStep(*halves, build_criterion(cfg), memory, runtime, num_parts, erase)
        optimizer.zero_grad(set_to_none=True)
        losses = compute(*runtime.move(*batch), scaler.scale)
        scaler.step(optimizer)
        scaler.update()
        meters.update(losses)
    return losses, watch


def assert_trained(model, losses):
    assert {(loss.device, loss.dtype) for loss in losses.values()} == {(GPU, torch.float32)}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in trained.items() if weight.grad is None or weight.grad.device != GPU] == []


@pytest.mark.parametrize(
    ("options", "num_parts"),
    [(options, 2) for options in TEMPORAL] + [(options, 1) for options in [{}, *OTHERS]] + [(CHECKPOINT, 2)],
    ids=name_of,
)
def test_a_training_step(options, num_parts):
    gpu = FakeGpu()
    cfg, model, runtime = build(gpu, **options)
    losses, watch = train_on(gpu, cfg, model, runtime, num_parts)
    assert_trained(model, losses)
    assert {"_fused_adam_", "normal_"} <= watch.seen  # the optimiser's one kernel, and the erasing's noise


@pytest.mark.parametrize("options", CNN, ids=name_of)
def test_a_training_step_of_a_cnn(options):
    gpu = FakeGpu()
    cfg, model, runtime = build(gpu, **options)
    losses, watch = train_on(gpu, cfg, model, runtime)
    assert_trained(model, losses)
    assert "convolution_backward" in watch.seen


@pytest.mark.parametrize("dtype", [None, torch.float16], ids=str)
@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_training_step_in_other_number_types(dtype, num_parts):
    gpu = FakeGpu()
    cfg, model, runtime = build(gpu, dtype)
    types = []
    model.encoder.vit.blocks[0].attn.qkv.register_forward_hook(lambda _m, _i, out: types.append(out.dtype))
    losses, watch = train_on(gpu, cfg, model, runtime, num_parts)
    assert_trained(model, losses)
    assert set(types) == {dtype or torch.float32}
    assert ("_amp_update_scale_" in watch.seen) == (dtype is torch.float16)


@pytest.mark.parametrize(
    "options", [*TEMPORAL, {"MODEL__SIE_UNSEEN": "mean", "TEST__NECK_FEAT": "after"}, RN50], ids=name_of
)
def test_features_of_a_test_and_of_the_memory(options):
    gpu = FakeGpu()
    cfg, model, runtime = build(gpu, **options)
    if "MODEL__SIE_UNSEEN" in options:
        with gpu.running(Watch(copies=True)):
            model.encoder.map_cameras([0, None, 1], [0, 1], "mean")
    clips, camids, rows = batch_of(gpu, cfg)
    batches = [SimpleNamespace(clips=clips, camids=camids, rows=rows)] * 2
    model.eval()
    with gpu.running(reads=True):
        features = means_of_loader(model.embed, batches, 3, runtime, "test")
        memory = means_of_loader(lambda clips, _: model.encode_memory(clips), batches, 3, runtime, "memory")
    assert (features.device, features.dtype, len(features)) == (GPU, torch.float32, 3)
    assert (memory.device, tuple(memory.shape)) == (GPU, (3, model.encoder.embed_width))


def test_clip_memory_lies_where_the_features_are():
    gpu = FakeGpu()
    with gpu.running(Watch(copies=True), reads=True):
        memory = build_clip_memory(gpu.tensor(7, 64), gpu.tensor(7, dtype=torch.int64, device=CPU), 5)
    assert (memory.device, memory.shape) == (GPU, (5, 64))


def test_ranking_reads_nothing_back_until_the_end(monkeypatch):
    """`device_match_positions` not at all, `rank_features` a truth value and the positions, all of them 1 here."""
    gpu, rng = FakeGpu(), np.random.default_rng(0)
    matches, left_out = ([rng.permutation(9)[:count] for count in counts] for counts in ((2, 0, 4), (1, 3, 0)))
    with gpu.running(Watch(copies=True)):
        positions = device_match_positions(gpu.tensor(3, 9), matches, left_out)
    assert (positions.device, positions.shape, positions.dtype) == (GPU, (6,), torch.int64)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: np.ones(tensor.shape, dtype=np.int64))
    pids, cameras = np.arange(12) % 4, np.arange(12) % 3
    with gpu.running(Watch(copies=True), reads=True):
        scores = rank_features(gpu.tensor(6, 8), gpu.tensor(12, 8), pids[:6], pids, cameras[:6], cameras, device=GPU)
    assert scores["rank1"] == 1 and scores["num_valid"] == 6


def test_the_text_stage(monkeypatch):
    pytest.importorskip("open_clip")
    gpu = FakeGpu()
    tower = create_text_tower(TextSizes(64, 2, 1, 32))
    branch = TextBranch(tower, TextPrompts(tower, NUM_CLASSES))
    on_gpu = gpu.module(lambda: branch)
    recipe = TextRecipe(
        epochs=2, batch_size=4, base_lr=1e-2, min_lr=1e-6, warmup_epochs=1, warmup_lr=1e-3, weight_decay=1e-4, seed=7
    )
    named = SimpleNamespace(tolist=lambda: list(range(NUM_CLASSES)))
    monkeypatch.setattr(TextBranch, "to", lambda branch, device: branch if device == GPU else None)
    monkeypatch.setattr(torch.Tensor, "unique", lambda _tensor: named)  # of the labels, on the host
    features, pids = gpu.tensor(9, 32, device=CPU), gpu.tensor(9, dtype=torch.int64, device=CPU)
    with gpu.running(Watch(copies=True), reads=True):
        texts = learn_text_features(on_gpu, features, pids, recipe, Runtime(GPU, torch.bfloat16, torch.nn.Identity()))
    assert (texts.device, tuple(texts.shape), texts.dtype) == (GPU, (NUM_CLASSES, 32), torch.float32)
    assert on_gpu.prompts.context.grad.device == GPU


X = {
    "a CPU tensor": lambda x: x + torch.zeros(4),
    "a CPU tensor in cat": lambda x: torch.cat([x, torch.zeros(1)]),
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "if": lambda x: 1 if x.max() > 0 else 2,
    "nonzero": lambda x: x[x > 0],
    "a CPU index": lambda x: x[torch.tensor([0, 2])],
    "cpu": lambda x: x.cpu(),
    "a blocking upload": lambda x: x + torch.ones(4).to(x.device),
    "an upload of a list": lambda x: x * torch.tensor([1.0, 2, 3, 4], device=x.device),
    "no deterministic form": lambda x: x.bincount(weights=x),
}


@pytest.mark.parametrize("code", X.values(), ids=X)
def test_the_fake_gpu_raises(code):
    gpu = FakeGpu()
    x = gpu.tensor(4)
    with pytest.raises((AssertionError, RuntimeError)), gpu.running():
        code(x)


@pytest.mark.parametrize(
    "code",
    [lambda x: x * torch.tensor(2.0), lambda x: x.to(CPU, non_blocking=True), lambda x: x + torch.ones(4, device=GPU)],
)
def test_the_fake_gpu_lets_pass_what_does_not_wait(code):
    gpu = FakeGpu()
    with gpu.running():
        code(gpu.tensor(4))


def test_gradients_node_by_node_are_those_of_autograd():
    """`backward_by_nodes` on real numbers."""
    torch.manual_seed(0)
    cfg = tiny_cfg()
    model = build_model(cfg, NUM_CLASSES, NUM_CAMERAS).eval()
    clips, memory = torch.randn(CLIPS, 2, 3, 32, 16), torch.randn(NUM_CLASSES, 64)
    gradients = []
    for backward in (torch.autograd.backward, backward_by_nodes):
        model.zero_grad()
        output = model(clips, torch.arange(CLIPS) % 3, memory)
        backward(build_criterion(cfg)(output, torch.tensor([0, 0, 1, 1]))["total"])
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad)


def test_means_of_groups():
    gpu = FakeGpu()
    means = GroupMeans(3)
    with gpu.running() as watch:
        means.add(gpu.tensor(4, 8, dtype=torch.bfloat16), gpu.tensor(4, dtype=torch.int64))
    assert means.sums.device == means.counts.device == GPU and "index_add_" in watch.seen

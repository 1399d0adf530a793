"""One step: whole, in parts (gradient caching), compiled; and attention goes through torch's kernel everywhere."""

import copy
import random
import shutil

import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torch import nn
from torch.nn import functional as F

from loss import build_criterion
from model import build_model
from model.compiled import check_compiler, compile_clip_features
from model.tfclip import ClipFeatures
from processor.runtime import Runtime
from processor.training.step import TrainingStep
from tests import tolerance
from tests.conftest import tiny_cfg
from tests.tolerance import TINY_SUM, allowed, any_instructions
from utils.errors import InputError

CPU = torch.device("cpu")
PIDS = torch.tensor([0, 0, 0, 1, 1, 1])
CAMIDS = torch.arange(6) % 3
LAYERS = 2 + 2 + 6  # of encoder, SSP and the deepest temporal branch
GRADIENT = 3  # passes through the layers: forwards, and backwards twice the work


def normalize(clips):
    """uint8 -> numbers around 0."""
    return clips.float() / 127.5 - 1


RUNTIME = Runtime(CPU, None, normalize)


def parts_of_a_step(dropout=True, **overrides):
    """Model, criterion, memory and uint8 clips (6, 2, 3, 32, 16)."""
    cfg = tiny_cfg(**overrides)
    torch.manual_seed(0)
    model = build_model(cfg, 5, 3).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    clips = torch.randint(0, 256, (6, 2, 3, 32, 16), dtype=torch.uint8)
    return model, build_criterion(cfg), torch.randn(5, 64), clips


def unscaled(loss):
    """What a gradient scaler that is switched off does to the loss."""
    return loss


def step_of(model, criterion, memory, num_parts=1, clip_features=None, runtime=RUNTIME, erase=None):
    encode = clip_features or model.clip_features
    return TrainingStep(encode, model.classify, criterion, memory, runtime, num_parts, erase)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_close(found, expected, passes=1):
    """Relative difference of every tensor; those that nearly cancel are held against a hundredth of the largest one."""
    assert set(found) == set(expected)
    longest = max(value.norm() for value in expected.values())
    for name, value in expected.items():
        error = (found[name] - value).norm()
        assert error < allowed(max(value.norm(), 1e-2 * longest), TINY_SUM, passes * LAYERS), (name, float(error))


@pytest.mark.parametrize("num_parts", [2, 3, 6])
@pytest.mark.parametrize("options", [{}, {"MODEL__SSP__VARIANT": "simple"}, {"MODEL__TEMPORAL": "TAP"},
                                     {"MODEL__TEMPORAL": "TRANSF"}, {"MODEL__GRAD_CHECKPOINT": True},
                                     {"MODEL__TRIPLET_PENULTIMATE": True, "MODEL__TEMPORAL": "TAP"},
                                     {"MODEL__TRIPLET_PENULTIMATE": True, "MODEL__GRAD_CHECKPOINT": True}])  # fmt: skip
def test_without_dropout_parts_give_losses_gradients_and_statistics_of_the_whole_batch(num_parts, options):
    model, criterion, memory, clips = parts_of_a_step(dropout=False, **options)
    in_parts = copy.deepcopy(model)
    expected = step_of(model, criterion, memory)(clips, PIDS, CAMIDS, lambda loss: 8 * loss)
    found = step_of(in_parts, criterion, memory, num_parts)(clips, PIDS, CAMIDS, lambda loss: 8 * loss)
    assert_close(found, expected)
    assert_close(gradients(in_parts), gradients(model), GRADIENT)
    for buffer, other in zip(model.buffers(), in_parts.buffers()):  # batch statistics were taken once, over all clips
        tolerance.assert_close(other, buffer, TINY_SUM, LAYERS)


@pytest.mark.parametrize("frozen", ["encoder", "tmd", "ssp"])
def test_parts_give_frozen_modules_no_gradients(frozen):
    model, criterion, memory, clips = parts_of_a_step(dropout=False)
    model.get_submodule(frozen).requires_grad_(False)
    in_parts = copy.deepcopy(model)
    step_of(model, criterion, memory)(clips, PIDS, CAMIDS, unscaled)
    step_of(in_parts, criterion, memory, 3)(clips, PIDS, CAMIDS, unscaled)
    assert_close(gradients(in_parts), gradients(model), GRADIENT)
    assert all(p.grad is None for p in in_parts.get_submodule(frozen).parameters())


def test_the_second_pass_drops_what_the_first_one_dropped():
    """Exactly the gradient of one graph over all parts whose masks are drawn part by part."""
    model, criterion, memory, clips = parts_of_a_step()
    one_graph = copy.deepcopy(model)

    def in_one_graph(seed):
        torch.manual_seed(seed)
        one_graph.zero_grad()
        parts = [one_graph.clip_features(normalize(c), k, memory) for c, k in zip(clips.split(2), CAMIDS.split(2))]
        features = ClipFeatures(*(None if f[0] is None else torch.cat(f) for f in zip(*parts)))
        criterion(one_graph.classify(features), PIDS)["total"].backward()
        return gradients(one_graph)

    torch.manual_seed(5)
    step_of(model, criterion, memory, 3)(clips, PIDS, CAMIDS, unscaled)
    after = torch.rand(3)
    assert_close(gradients(model), in_one_graph(seed=5), GRADIENT)
    assert torch.equal(torch.rand(3), after)  # and the stream goes on as after one pass
    other = in_one_graph(seed=6)["ssp.layers.0.mlp.0.weight"]  # other masks matter
    assert (other - gradients(model)["ssp.layers.0.mlp.0.weight"]).norm() > 1e-3 * other.norm()


def test_all_parts_and_both_passes_see_the_pixels_of_one_erasing():
    """And those that the whole batch sees when the same random numbers erase it."""
    model, criterion, memory, clips = parts_of_a_step(dropout=False)
    erase, inputs, losses = RandomErasing(0.5, mode="pixel", max_count=1, device=CPU), {}, {}
    for num_parts in (1, 2, 3):
        seen = []

        def watched(clips, camids, memory, seen=seen):
            seen.append(clips.clone())
            return model.clip_features(clips, camids, memory)

        random.seed(7)
        torch.manual_seed(7)
        step = step_of(model, criterion, memory, num_parts, watched, erase=erase)
        losses[num_parts] = step(clips, PIDS, CAMIDS, unscaled)
        passes = torch.cat(seen).split(len(clips))
        assert len(passes) == (1 if num_parts == 1 else 2) and all(torch.equal(p, passes[0]) for p in passes)
        inputs[num_parts] = passes[0]
    random.seed(7)
    torch.manual_seed(7)
    expected = normalize(clips)
    erased = erase(expected.flatten(0, 1).clone()).view_as(expected)
    assert all(torch.equal(found, erased) for found in inputs.values())
    hit_BT = (erased != expected).flatten(2).any(dim=2)
    assert 0 < hit_BT.sum() < 12 and (hit_BT[:, 0] != hit_BT[:, 1]).any()  # decided for each frame
    assert_close(losses[2], losses[1])
    assert_close(losses[3], losses[1])


def test_parts_need_the_activations_of_one_part_only():
    model, criterion, memory, clips = parts_of_a_step()
    held = {}
    for num_parts in (1, 3):
        saved = []  # values kept for the backward pass, of each call

        def measured(*args, saved=saved):
            saved.append(0)
            return model.clip_features(*args)

        def keep(tensor, saved=saved):
            if saved:
                saved[-1] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step_of(model, criterion, memory, num_parts, measured)(clips, PIDS, CAMIDS, unscaled)
        held[num_parts] = max(saved)
    assert held[3] < 0.6 * held[1]


def test_ssp_computes_once_what_all_clips_share():
    model, _, memory, clips = parts_of_a_step()
    rows = {}
    for name, module in model.ssp.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, inputs, _, name=name: rows.__setitem__(name, len(inputs[0])))
    model.clip_features(normalize(clips), CAMIDS, memory)
    shared = {name for name, count in rows.items() if count == 1}
    first = {f"layers.0.self_attn.{part}_proj" for part in "qkv"} | {"layers.0.self_attn.out_proj", "memory_proj.1"}
    assert shared == first and rows["layers.1.self_attn.q_proj"] == 6


@pytest.mark.parametrize("variant", ["full", "simple"])
def test_a_shared_memory_gives_what_copies_of_it_give(variant):
    """Values, gradients and dropout masks: (1, C, E) against the same memory written out for every clip."""
    model, _, memory, _ = parts_of_a_step(MODEL__SSP__VARIANT=variant)
    context = torch.randn(6, 9, 64)
    results = []
    for given in (memory[None], memory.expand(6, -1, -1).contiguous()):
        model.zero_grad()
        torch.manual_seed(3)
        updated = model.ssp(given, context)
        updated.square().sum().backward()
        results.append((updated.detach(), {n: p.grad.clone() for n, p in model.ssp.named_parameters()}))
    tolerance.assert_close(results[0][0], results[1][0], TINY_SUM, passes=2)
    assert_close(results[0][1], results[1][1], GRADIENT)


@pytest.mark.parametrize(("options", "calls"), [
    ({}, 2 + 2 * 2 + 2),  # two encoder blocks, SSP: two layers with two attentions, TMC and MD
    ({"MODEL__SSP__VARIANT": "simple"}, 2 + 2 + 2),
    ({"MODEL__SSP__ENABLED": False, "MODEL__TEMPORAL": "TRANSF", "MODEL__MEMORY": "none"}, 2 + 6),
])  # fmt: skip
def test_all_attention_goes_through_scaled_dot_product_attention(monkeypatch, options, calls):
    model, _, memory, clips = parts_of_a_step(**options)
    memory = memory if model.ssp is not None else None
    seen = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: seen.append(a[0].shape) or kernel(*a, **k))
    model.clip_features(normalize(clips), CAMIDS, memory)
    assert len(seen) == calls


@any_instructions
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("penultimate", [False, True])
def test_compiled_features_are_the_eager_ones_with_the_same_dropout(penultimate):
    few = {"MODEL__SSP__ENABLED": False, "MODEL__TEMPORAL": "TAP"} if penultimate else {"MODEL__ENCODER__DEPTH": 1}
    options = {"MODEL__SSP__LAYERS": 1, "MODEL__TRIPLET_PENULTIMATE": penultimate} | few
    model, criterion, memory, clips = parts_of_a_step(**options)
    results = {}
    for name, clip_features in (("eager", model.clip_features), ("compiled", compile_clip_features(model))):
        model.zero_grad()
        torch.manual_seed(4)
        losses = step_of(model, criterion, memory, 1, clip_features)(clips, PIDS, CAMIDS, unscaled)
        results[name] = losses, gradients(model)
    assert_close(results["compiled"][0], results["eager"][0])
    assert_close(results["compiled"][1], results["eager"][1], GRADIENT)
    assert not any(name.startswith("_orig_mod") for name in model.state_dict())


def test_a_missing_compiler_is_named_with_the_key(monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("no C++\ncompiler found")

    monkeypatch.setattr(torch, "compile", lambda *_args, **_kwargs: broken)
    with pytest.raises(InputError, match="SOLVER.COMPILE True: torch cannot compile on cpu here .*no C.* compiler"):
        check_compiler(CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_step_on_the_gpu_never_waits_for_it(num_parts):
    device = torch.device("cuda")
    model, criterion, memory, clips = parts_of_a_step()
    model, memory = model.to(device), memory.to(device)
    runtime = Runtime(device, torch.bfloat16, normalize)
    erase = RandomErasing(0.5, mode="pixel", max_count=1, device=device)
    step = step_of(model, criterion, memory, num_parts, runtime=runtime, erase=erase)
    batch = [tensor.to(device) for tensor in (clips, PIDS, CAMIDS)]
    step(*batch, unscaled)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*batch, unscaled)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("num_parts", [1, 2])
def test_encoder_and_heads_compute_in_the_autocast_type(num_parts):
    model, criterion, memory, clips = parts_of_a_step()
    types = {}
    for name in ("encoder.vit.blocks.0.attn.qkv", "ssp.layers.0.cross_attn.q_proj", "classifier_g", "classifier_t"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: types.update({name: out.dtype}))
    runtime = Runtime(CPU, torch.bfloat16, normalize)
    step = step_of(model, criterion, memory, num_parts, runtime=runtime)
    losses = step(clips, PIDS, CAMIDS, unscaled)
    assert set(types.values()) == {torch.bfloat16} and len(types) == 4
    assert losses["total"].dtype is torch.float32
    assert all(p.grad.dtype is torch.float32 for p in model.parameters() if p.requires_grad)


def test_more_parts_than_clips_are_refused():
    model, criterion, memory, clips = parts_of_a_step()
    with pytest.raises(ValueError, match="6 clips cannot be computed in 7 parts"):
        step_of(model, criterion, memory, 7)(clips, PIDS, CAMIDS, unscaled)

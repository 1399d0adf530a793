"""The attention weights that are shown are those that the network uses, and reading them changes nothing."""

import pytest
import torch
from torch import Tensor, nn

from model.attention import AttentionMaps, attention_maps, head_weights, roll_out, split_qkv
from model.tfclip import TFCLIP
from tests.conftest import tiny_model
from tests.gpu.fake import FakeGpu
from tests.tolerance import RN50_LAYERS, RN50_SUM, TINY_LAYERS, TINY_SUM, any_instructions, assert_close

HEADS = 2  # of the tiny encoder


def clips_of(model: TFCLIP, frames: int = 3) -> Tensor:
    size = (64, 32) if model.encoder.tower == "cnn" else (32, 16)
    return torch.randn(2, frames, 3, *size, generator=torch.Generator().manual_seed(1))


def resnet() -> TFCLIP:
    """The tiny model around RN50, in eval mode."""
    sizes = {"INPUT__SIZE_TRAIN": "[64, 32]", "INPUT__SIZE_TEST": "[64, 32]", "MODEL__SIE_CAMERA": False}
    scratch = {f"MODEL__ENCODER__{name}": 0 for name in ("WIDTH", "DEPTH", "HEADS", "PATCH", "EMBED")}
    return tiny_model(seed=0, MODEL__NAME="RN50", MODEL__STRIDE_SIZE="[16, 16]", **sizes, **scratch).eval()


def sharpen(model: TFCLIP) -> TFCLIP:
    """With larger queries and keys, so that no two weights are alike."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("qkv.weight"):
                weight.mul_(3)
    return model.eval()


def num_hooks(model: TFCLIP) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class WeightsOfTimm:
    """What timm's own, unfused attention takes the softmax of, kept at the dropout that it passes: (M, heads, N, N)."""

    def __init__(self, attn: nn.Module) -> None:
        attn.fused_attn = False
        attn.attn_drop.register_forward_hook(lambda module, inputs, output: self.seen.append(output))
        self.seen: list[Tensor] = []

    @property
    def mean(self) -> Tensor:
        """(M, N, N) of the only pass."""
        (weights,) = self.seen
        return weights.mean(dim=1)


def test_the_weights_are_those_that_timm_computes():
    model, like = (sharpen(tiny_model(seed=0)) for _ in range(2))
    attns = [block.attn for block in like.encoder.vit.blocks] + [like.tmd.diffusion.attn, like.tmd.construction.attn]
    first, second, diffusion, construction = map(WeightsOfTimm, attns)
    clips, camids = clips_of(model), torch.tensor([0, 2])
    with torch.no_grad():
        like.embed(clips, camids)
    maps = attention_maps(model, clips, camids)
    eye = torch.eye(9)
    rolled = (0.5 * second.mean + 0.5 * eye) @ (0.5 * first.mean + 0.5 * eye)
    sums = {"terms": TINY_SUM, "passes": TINY_LAYERS, "scale": 1.0}
    assert_close(maps.class_row.flatten(0, 1), rolled[:, 0], **sums)
    assert_close(maps.memory_row.flatten(0, 1), diffusion.mean[:, -1], **sums)
    assert_close(maps.frames, construction.mean, **sums)
    assert maps.frames.std() > 0.01 and maps.memory_row.std() > 0.01  # far from all alike


def test_weights_times_values_are_the_output_of_the_attention():
    model = sharpen(tiny_model(seed=0))
    attns = {
        "block": model.encoder.vit.blocks[1].attn,
        "MD": model.tmd.diffusion.attn,
        "TMC": model.tmd.construction.attn,
    }
    seen: dict[str, Tensor] = {}
    for name, attn in attns.items():
        attn.qkv.register_forward_hook(lambda module, inputs, output, name=name: seen.update({f"{name} qkv": output}))
        attn.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        model.embed(clips_of(model))
        for name, attn in attns.items():
            assert attn.fused_attn
            q, k, v = split_qkv(attn, seen[f"{name} qkv"])
            mixed = head_weights(q, k) @ v  # (M, heads, N, d)
            assert_close(attn.proj(mixed.transpose(1, 2).flatten(2)), seen[name], terms=64, passes=3)


def test_roll_out_of_two_blocks_by_hand():
    first = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    second = torch.tensor([[[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    # A'1 = [[3/4, 1/4, 0], [0, 1, 0], [0, 0, 1]], A'2 = [[1/2, 1/4, 1/4], [0, 1, 0], [1/2, 0, 1/2]]; A'2 A'1:
    expected = torch.tensor([[[0.375, 0.375, 0.25], [0.0, 1.0, 0.0], [0.375, 0.125, 0.5]]])
    assert torch.equal(roll_out([first, second]), expected)  # every product is exact in float32
    assert not torch.equal(roll_out([second, first]), expected)


VARIANTS = {
    "TMD": ({}, True, True),
    "no camera embedding": ({"MODEL__SIE_CAMERA": False}, True, True),
    "overlapping stride": ({"MODEL__STRIDE_SIZE": "[6, 4]"}, True, True),
    "TMC alone": ({"MODEL__TMD__MD": False}, False, True),
    "MD alone": ({"MODEL__TMD__TMC": False}, False, False),
    "TAP": ({"MODEL__TEMPORAL": "TAP"}, False, False),
    "TRANSF": ({"MODEL__TEMPORAL": "TRANSF"}, False, False),
    "penultimate": ({"MODEL__TRIPLET_PENULTIMATE": True}, True, True),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_model_has_is_read_and_adds_up_to_one(variant):
    overrides, has_memory, has_frames = VARIANTS[variant]
    model = sharpen(tiny_model(seed=0, **overrides))
    maps, (h, w) = attention_maps(model, clips_of(model), torch.tensor([0, 2])), model.encoder.grid
    assert (h, w) == ((5, 3) if variant == "overlapping stride" else (4, 2))
    check_sums(maps, (2, 3, h, w))
    assert maps.rolled_out == 2
    assert (maps.memory_map is not None, maps.frames is not None) == (has_memory, has_frames)
    if has_memory:
        assert maps.memory_map.shape == (2, 3, h, w) and maps.memory_row.shape == (2, 3, h * w + 2)
        assert torch.equal(maps.memory_map[1, 2, 1, 0], maps.memory_row[1, 2, 1 + w])  # rows of patches, class first
    if has_frames:
        assert maps.frames.shape == (2, 3, 3)


def check_sums(maps: AttentionMaps, shape: tuple[int, ...]) -> None:
    assert maps.class_map.shape == shape and maps.grid == shape[2:]
    for row in (maps.class_row, maps.memory_row, maps.frames):
        if row is not None:
            assert row.dtype == torch.float32 and row.min() >= 0
            assert_close(row.sum(dim=2), torch.ones(row.shape[:2]), terms=row.shape[2], passes=2)
    B, T, h, w = shape
    assert torch.equal(maps.class_map[B - 1, 0, h - 1, 0], maps.class_row[B - 1, 0, 1 + (h - 1) * w])


def test_a_cnn_shows_the_weights_of_its_pool():
    model = resnet()
    clips, pool = clips_of(model), model.encoder.cnn.head
    with torch.no_grad():
        pool.q.weight.mul_(50)
        pool.k.weight.mul_(50)
        layer4 = model.encoder._layer4(clips.flatten(0, 1))
        positions = layer4.flatten(2).transpose(1, 2)  # (M, h*w, G)
        x = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1) + pool.pos_embed
        # torch's own attention returns its weights.
        heads = {"num_heads": pool.num_heads, "training": False, "need_weights": True, "use_separate_proj_weight": True}
        x, query = x.transpose(0, 1), x[:, :1].transpose(0, 1)
        _, weights = nn.functional.multi_head_attention_forward(
            query, x, x, x.shape[2], in_proj_weight=None, bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
            in_proj_bias=torch.cat([pool.q.bias, pool.k.bias, pool.v.bias]), q_proj_weight=pool.q.weight,
            k_proj_weight=pool.k.weight, v_proj_weight=pool.v.weight, out_proj_weight=pool.proj.weight,
            out_proj_bias=pool.proj.bias, **heads,
        )  # fmt: skip
        maps = attention_maps(model, clips)
    check_sums(maps, (2, 3, 4, 2))
    assert_close(maps.class_row.flatten(0, 1), weights[:, 0], RN50_SUM, RN50_LAYERS, scale=1.0)
    assert not maps.rolled_out and maps.class_row.std() > 0.01
    assert maps.memory_map.shape == (2, 3, 4, 2) and maps.frames.shape == (2, 3, 3)
    model.tmd = None  # as with MODEL.TEMPORAL TAP
    alone = attention_maps(model, clips)
    assert torch.equal(alone.class_row, maps.class_row) and alone.memory_map is None and alone.frames is None


@pytest.mark.parametrize("autocast", [False, True])
def test_reading_changes_no_number_and_leaves_nothing_behind(autocast):
    model = sharpen(tiny_model(seed=0))
    clips, camids = clips_of(model), torch.tensor([0, 2])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = model.embed(clips, camids)
        maps = attention_maps(model, clips, camids)
        assert torch.equal(maps.features, before)
        assert torch.equal(model.embed(clips, camids), before)
    assert num_hooks(model) == 0
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    check_sums(maps, (2, 3, 4, 2))


@any_instructions
def test_the_weights_in_bfloat16_are_near_those_in_float32():
    model = sharpen(tiny_model(seed=0))
    clips = clips_of(model)
    exact = attention_maps(model, clips)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention_maps(model, clips)
    for name in ("class_row", "memory_row", "frames"):
        assert_close(
            getattr(rounded, name), getattr(exact, name), TINY_SUM, TINY_LAYERS, dtype=torch.bfloat16, scale=0.2
        )


def test_hooks_are_gone_after_an_error():
    model = tiny_model(seed=0).eval()
    with pytest.raises(RuntimeError, match="Sizes of tensors"):
        attention_maps(model, torch.randn(1, 2, 3, 32, 16), torch.tensor([0, 0, 0]))  # three cameras, one clip
    assert num_hooks(model) == 0
    with pytest.raises(ValueError, match="eval mode"):
        attention_maps(model.train(), clips_of(model))


def test_clips_do_not_mix():
    model = sharpen(tiny_model(seed=0))
    clips, camids = clips_of(model), torch.tensor([0, 2])
    both = attention_maps(model, clips, camids)
    for clip in range(2):
        alone = attention_maps(model, clips[clip : clip + 1], camids[clip : clip + 1])
        for name in ("class_row", "memory_row", "frames"):
            sums = {"terms": TINY_SUM, "passes": TINY_LAYERS, "scale": 1.0}
            assert_close(getattr(alone, name)[0], getattr(both, name)[clip], **sums)


@pytest.mark.parametrize("name", ["ViT", "RN50"])
def test_on_a_gpu_nothing_leaves_it_and_the_host_need_not_wait(name):
    gpu = FakeGpu()
    model = gpu.module(resnet if name == "RN50" else lambda: tiny_model().eval())
    clips = gpu.tensor(2, 3, 3, *((64, 32) if name == "RN50" else (32, 16)))
    camids = gpu.tensor(2, dtype=torch.int64)
    with gpu.running(), torch.autocast("cuda", torch.bfloat16):  # raises for a copy to the host or a CPU tensor
        maps = attention_maps(model, clips, camids)
    for row in (maps.class_row, maps.memory_row, maps.frames):
        assert row.device.type == "cuda" and row.dtype == torch.float32
    assert maps.class_map.shape == (2, 3, 4, 2) and maps.frames.shape == (2, 3, 3)

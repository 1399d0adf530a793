"""The text tower computes what open_clip's CLIP computes, and takes its weights from OpenAI's archive."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from model.text_encoder import (
    TextSizes,
    create_text_tower,
    create_tokenizer,
    load_text_tower,
    scratch_text_sizes,
    text_sizes,
)
from tests.tolerance import assert_close
from utils.errors import InputError, MissingFileError

TEXTS = ["A photo of a nice young tall man person.", "Two dogs.", "", "word " * 100]
TINY = TextSizes(width=64, heads=2, depth=2, embed_width=32)


def build_clip(sizes: TextSizes) -> nn.Module:
    """open_clip's CLIP with QuickGELU, a small image tower and every weight random."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(5)
    vision = open_clip.CLIPVisionCfg(layers=1, width=64, head_width=32, patch_size=8, image_size=16)
    text = open_clip.CLIPTextCfg(width=sizes.width, heads=sizes.heads, layers=sizes.depth)
    clip = open_clip.CLIP(sizes.embed_width, vision, text, quick_gelu=True).eval()
    for parameter in clip.parameters():  # biases and norms start as zeros and ones, which would hide a swap
        nn.init.normal_(parameter, std=0.1)
    return clip


def write_archive(clip: nn.Module, path) -> str:
    """`clip` in half precision as OpenAI distributes it: a TorchScript archive."""
    torch.jit.script(clip.half()).save(str(path))
    clip.float()
    return str(path)


@pytest.mark.parametrize("sizes", [TINY, TextSizes(128, 4, 12, 128)], ids=["tiny", "deep"])
@torch.no_grad()
def test_features_are_those_of_open_clip(sizes):
    clip = build_clip(sizes)
    tower = create_text_tower(sizes)
    state = clip.state_dict()
    tower.text.load_state_dict({name: state[name] for name in tower.text.state_dict()})
    tokens = create_tokenizer()(TEXTS)
    features = tower(tower.embed_tokens(tokens), tokens)
    assert features.shape == (len(TEXTS), sizes.embed_width)
    assert_close(features, clip.encode_text(tokens), 4 * sizes.width, sizes.depth)


def test_the_tower_is_frozen_and_passes_the_gradient_to_the_prompts():
    pytest.importorskip("open_clip")
    tower = create_text_tower(TINY).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    tokens = create_tokenizer()(TEXTS[:2])
    prompts = tower.embed_tokens(tokens).requires_grad_()
    tower(prompts, tokens).sum().backward()
    end = tokens.argmax(dim=1)
    assert all(prompts.grad[i, : end[i] + 1].abs().amax() > 0 for i in range(2))
    assert all(prompts.grad[i, end[i] + 1 :].abs().amax() == 0 for i in range(2))  # what stands after the end is unseen


def test_sizes_belong_to_the_image_encoder():
    pytest.importorskip("open_clip")
    assert text_sizes("ViT-B-16") == text_sizes("vit_base_patch32_clip_quickgelu_224.openai") == (512, 8, 12, 512)
    assert text_sizes("RN50") == (512, 8, 12, 1024)
    assert text_sizes("resnet50x4_clip.openai") == (640, 10, 12, 640)
    assert text_sizes("ViT-L-14") == text_sizes("vit_large_patch14_clip_quickgelu_336.openai") == (768, 12, 12, 768)
    assert scratch_text_sizes(128, 0) == (128, 2, 12, 128)
    assert scratch_text_sizes(512, 3) == (512, 8, 3, 512)


def test_an_encoder_without_openai_text_tower_is_refused():
    with pytest.raises(InputError, match="MODEL.NAME 'vit_huge_patch14_clip_quickgelu_224.dfn5b'.*MODEL.MEMORY text"):
        text_sizes("vit_huge_patch14_clip_quickgelu_224.dfn5b")


def test_openai_archive_fills_the_tower_in_float32(tmp_path):
    clip = build_clip(TINY)
    path = write_archive(clip, tmp_path / "ViT-tiny.pt")
    tower = create_text_tower(TINY)
    load_text_tower(tower, "ViT-B-16", path)
    state = clip.state_dict()  # was rounded to half precision when it was written
    assert len(tower.text.state_dict()) == 2 * 12 + 5
    for name, value in tower.text.state_dict().items():
        assert value.dtype is torch.float32 and torch.equal(value, state[name]), name
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (TINY._replace(width=128), r"another size: ln_final.bias \(64,\), \(128,\) here"),
        (TINY._replace(depth=3), r"another size: transformer.resblocks.2.attn.in_proj_bias absent, \(192,\) here"),
        (TINY._replace(depth=1), r"another size: transformer.resblocks.1.attn.in_proj_bias \(192,\), absent here"),
    ],
)
def test_a_tower_of_another_size_is_refused_and_left_untouched(tmp_path, sizes, message):
    path = write_archive(build_clip(TINY), tmp_path / "ViT-tiny.pt")
    tower = create_text_tower(sizes)
    before = {name: value.clone() for name, value in tower.text.state_dict().items()}
    with pytest.raises(
        InputError, match=rf"MODEL.PRETRAIN_PATH: the text tower in .*ViT-tiny.pt is of {message}"
    ) as caught:
        load_text_tower(tower, "ViT-B-16", path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in tower.text.state_dict().items())


def test_a_file_without_a_text_tower_is_refused(tmp_path):
    clip = build_clip(TINY)
    image_only = {name: value for name, value in clip.state_dict().items() if name.startswith("visual.")}
    torch.save(image_only, tmp_path / "image_only.pt")
    timm_names = ("blocks.0.attn.qkv.weight", "norm_pre.weight")
    save_file({name: torch.zeros(2) for name in timm_names}, tmp_path / "timm.safetensors")
    tower = create_text_tower(TINY)
    for file, kind in (("image_only.pt", "openai"), ("timm.safetensors", "timm")):
        with pytest.raises(InputError, match=rf"MODEL.PRETRAIN_PATH: .*{file} \({kind} weights\) holds no text tower"):
            load_text_tower(tower, "ViT-B-16", str(tmp_path / file))
    with pytest.raises(InputError, match="timm downloads the image tower alone; put OpenAI's RN50.pt there"):
        load_text_tower(tower, "RN50", "")
    with pytest.raises(MissingFileError, match="nowhere.pt does not exist"):
        load_text_tower(tower, "ViT-B-16", str(tmp_path / "nowhere.pt"))


def test_without_open_clip_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for use in (lambda: create_text_tower(TINY), create_tokenizer, lambda: text_sizes("ViT-B-16")):
        with pytest.raises(InputError, match="MODEL.MEMORY text needs .*: pip install 'open_clip_torch>=3.0'") as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("version", "refused"), [("2.24.0", True), ("2.32.0", True), ("3.0.0", False), ("3.10", False)]
)
def test_an_open_clip_that_is_too_old_is_refused(monkeypatch, version, refused):
    open_clip = pytest.importorskip("open_clip")
    monkeypatch.setattr(open_clip, "__version__", version)
    if refused:
        with pytest.raises(InputError, match=rf"pip install 'open_clip_torch>=3.0' \(found {version}\)"):
            create_text_tower(TINY)
    else:
        create_text_tower(TINY)

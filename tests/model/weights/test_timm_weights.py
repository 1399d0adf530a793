"""MODEL.PRETRAIN_CHOICE timm: any CLIP's weights, by timm's download or from a file in open_clip's or timm's names."""

import logging
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from configs import load_cfg
from model import build_model, pretrained_path
from model.encoder import CLIPImageEncoder, create_vit, resize_positions
from model.tfclip import TFCLIP
from model.weights import ArchitectureError, load_pretrained
from processor.training.session import check_start
from tests.model.weights.test_weights import Clip
from tests.refusals import refused
from tests.tolerance import TINY_SUM, allowed, assert_close, largest
from utils.errors import InputError, MissingFileError

GELU, QUICK_GELU = "vit_base_patch16_clip_224.laion2b", "vit_base_patch16_clip_quickgelu_224.metaclip_400m"
SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8, "num_classes": 64}
SMALLEST = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"  # of timm's CLIPs: 8 million weights
TIMM = ["MODEL.PRETRAIN_CHOICE", "timm"]


def small_model(name: str, **sizes: int) -> TFCLIP:
    """With the grid of the files below, so that no position is resized."""
    vit = create_vit(name, (32, 32), **SIZES | sizes)
    return TFCLIP(CLIPImageEncoder(vit), None, None, num_classes=5).eval()


@torch.no_grad()
def features(model: TFCLIP) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N, D) and the projected class token (E,) of one frame."""
    tokens, projected, _ = model.encoder(torch.randn(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return tokens[0, 0], projected[0, 0, 0]


@torch.no_grad()
def features_of_timm(name: str, path) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from timm's model, filled by timm from the file."""
    overlay = {"file": str(path), "num_classes": SIZES["num_classes"]}
    vit = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=32, **SIZES).eval()
    frame = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return vit.forward_features(frame)[0], vit(frame)[0]


def open_clip_state() -> dict[str, torch.Tensor]:
    """A small CLIP in open_clip's names; norms and biases are random too, since ones and zeros would hide a swap."""
    torch.manual_seed(3)
    state = {name: value.detach().clone() for name, value in Clip().state_dict().items()}
    for name, value in state.items():
        if name.endswith((".bias", "_bias")) or ".ln_" in name:
            value.normal_(std=0.5)
    text = {"token_embedding.weight": torch.randn(9, 4), "transformer.resblocks.0.ln_1.weight": torch.randn(4)}
    return state | text


def timm_state() -> dict[str, torch.Tensor]:
    vit = timm.create_model(GELU, pretrained=False, img_size=32, **SIZES)
    generator = torch.Generator().manual_seed(3)
    drawn = {name: torch.randn(v.shape, generator=generator) / 8 for name, v in vit.state_dict().items()}
    return drawn | {"head.bias": torch.zeros(SIZES["num_classes"])}


def save(path, state):
    """In the form that the ending stands for: a training checkpoint of open_clip, a bare state, safetensors."""
    if path.suffix == ".pt":
        wrapped = {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": v for name, v in state.items()}}
        torch.save(wrapped, path)
    else:
        (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


@pytest.mark.parametrize("name", [GELU, QUICK_GELU])
@pytest.mark.parametrize(
    ("file", "make_state"),
    [
        *((f"open_clip.{suffix}", open_clip_state) for suffix in ("pt", "bin", "safetensors")),
        *((f"timm.{suffix}", timm_state) for suffix in ("bin", "safetensors")),
    ],
)
def test_features_are_those_of_timm_filled_by_timm(tmp_path, file, make_state, name):
    path = save(tmp_path / file, make_state())
    model = small_model(name)
    report = load_pretrained(model, name, str(path))
    assert report.kind == ("openai" if "open_clip" in file else "timm") and not report.skipped
    assert report.loaded == len(model.encoder.state_dict())
    for ours, theirs in zip(features(model), features_of_timm(name, path)):
        assert theirs.std() > 0.1
        assert_close(ours, theirs, TINY_SUM, SIZES["depth"])


def test_the_name_alone_decides_the_activation(tmp_path, caplog):
    path = str(save(tmp_path / "clip.bin", open_clip_state()))
    found = {}
    for name, words in ((GELU, "GELU"), (QUICK_GELU, "QuickGELU")):
        model = small_model(name)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            load_pretrained(model, name, path)
        assert f"activation of MODEL.NAME '{name}': {words}; a weight file does not say its own" in caplog.text
        found[name] = features(model)[0]
    scale = largest(found[GELU])
    assert largest(found[GELU] - found[QUICK_GELU]) > 100 * allowed(scale, TINY_SUM, SIZES["depth"])


def test_a_file_that_does_not_fit_is_named_with_the_encoder(tmp_path):
    state = open_clip_state()
    path = save(tmp_path / "clip.bin", state)
    start = rf"^MODEL.NAME '{GELU}': weight file {re.escape(str(path))} is of another architecture: "
    for sizes, message in (
        ({"embed_dim": 128}, r"encoder.vit.cls_token \(1, 1, 64\) has \(1, 1, 128\) here; check MODEL.NAME$"),
        ({"num_classes": 32}, r"encoder.vit.head.weight \(64, 64\) has \(32, 64\) here; check MODEL.NAME$"),
        ({"depth": 1}, r"encoder.vit.blocks.1.attn.qkv.weight .* has no place here; check MODEL.NAME$"),
        ({"depth": 3}, r"it lacks encoder \(12\); check MODEL.NAME$"),
    ):
        refused(start + message, load_pretrained, small_model(GELU, **sizes), GELU, str(path))
    del state["visual.ln_post.bias"]
    save(path, state)
    refused(start + "it lacks encoder.vit.norm.bias; check", load_pretrained, small_model(GELU), GELU, str(path))
    save(path, open_clip_state() | {"visual.attn_pool.query": torch.zeros(2)})  # CoCa's
    with pytest.raises(ArchitectureError, match="visual.attn_pool.query has no place in a CLIP ViT"):
        load_pretrained(small_model(GELU), GELU, str(path))


@pytest.fixture
def timm_download(monkeypatch):
    """timm_download(file): timm reads this file in place of a download; the names it was asked for are in `asked`."""
    create = timm.create_model

    def patch(file):
        def create_from_file(name, pretrained=False, **options):
            if pretrained:
                patch.asked.append(name)
                options["pretrained_cfg_overlay"] = {"file": str(file)}
            return create(name, pretrained=pretrained, **options)

        monkeypatch.setattr(timm, "create_model", create_from_file)

    patch.asked = []
    return patch


def test_without_a_path_timm_downloads_the_weights_of_the_tag(tmp_path, timm_download, caplog):
    theirs = timm.create_model(SMALLEST, pretrained=False, num_classes=512)
    timm_download(save(tmp_path / "model.safetensors", theirs.state_dict()))
    for name, default in ((SMALLEST, False), (SMALLEST.partition(".")[0], True)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            ours = build_model(load_cfg(opts=[*TIMM, "MODEL.NAME", name]), 5, 3).encoder.vit
        assert f"weights of the encoder: timm's {SMALLEST}" in caplog.text
        assert ("the default tag: MODEL.NAME 'vit_xsmall_patch16_clip_224' has none" in caplog.text) == default
    assert timm_download.asked == [SMALLEST, SMALLEST]
    weights = theirs.state_dict()
    positions = weights.pop("pos_embed")
    assert weights.pop("head.bias").shape == (512,)
    assert torch.equal(ours.pos_embed[0], resize_positions(positions[0], (16, 8)))
    assert weights.keys() == ours.state_dict().keys() - {"pos_embed"}
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in weights.items())


def test_weights_that_timm_keeps_under_the_name_with_gelu_alone(monkeypatch):
    create, asked = timm.create_model, []

    def create_narrow(name, pretrained=False, **options):
        asked.append((name, pretrained))
        return create(name, pretrained=False, **options | {"embed_dim": 64, "depth": 1, "num_heads": 1})

    monkeypatch.setattr(timm, "create_model", create_narrow)
    cfg = load_cfg(opts=[*TIMM, "MODEL.NAME", "vit_base_patch16_clip_quickgelu_224.dfn2b"])
    vit = build_model(cfg, 5, 3).encoder.vit
    assert asked == [("vit_base_patch16_clip_quickgelu_224", False), ("vit_base_patch16_clip_224.dfn2b", True)]
    assert type(vit.blocks[0].mlp.act).__name__ == "QuickGELU"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (SMALLEST, f"model.safetensors of https://huggingface.co/timm/{SMALLEST}"),
        ("ViT-B-16", "OpenAI's ViT-B-16.pt"),
    ],
)
def test_a_download_that_fails_says_which_file_to_fetch(monkeypatch, name, file):
    def fail(*_arguments, **_options):
        raise OSError("no network\nmore lines")

    model = small_model(GELU)
    monkeypatch.setattr(timm, "create_model", fail)
    message = rf"timm could not download .*\(no network\); put {file} on disk and set MODEL.PRETRAIN_PATH to it$"
    refused(message, load_pretrained, model, name, "")


def test_a_folder_holds_files_with_the_names_of_weights(tmp_path):
    def options(name):
        return load_cfg(opts=[*TIMM, "MODEL.NAME", name, "MODEL.PRETRAIN_PATH", str(tmp_path)])

    assert pretrained_path(options(GELU)) == str(tmp_path / f"{GELU}.safetensors")
    with pytest.raises(
        MissingFileError, match=f"{GELU}.safetensors does not exist; put model.safetensors of https://.*"
    ):
        check_start(options(GELU))
    for suffix in (".pth", ".pt", ".bin", ".safetensors"):  # the last one is preferred
        (tmp_path / f"{GELU}{suffix}").touch()
        assert pretrained_path(options(GELU)) == str(tmp_path / f"{GELU}{suffix}")
    check_start(options(GELU))
    assert pretrained_path(options("ViT-B-16")) == str(tmp_path / "ViT-B-16.pt")
    (tmp_path / "vit_base_patch16_clip_quickgelu_224.openai.bin").touch()
    assert pretrained_path(options("ViT-B-16")) == str(tmp_path / "vit_base_patch16_clip_quickgelu_224.openai.bin")
    assert pretrained_path(load_cfg(opts=[*TIMM, "MODEL.PRETRAIN_PATH", "own.pt"])) == "own.pt"


def test_a_model_is_filled_from_a_file_that_the_config_names(tmp_path):
    theirs = timm.create_model(SMALLEST, pretrained=False, num_classes=512)
    path = save(tmp_path / "model.bin", theirs.state_dict())
    cfg = load_cfg(opts=[*TIMM, "MODEL.NAME", SMALLEST, "MODEL.PRETRAIN_PATH", str(path)])
    ours = build_model(cfg, 5, 3).encoder.vit
    assert torch.equal(ours.head.weight, theirs.head.weight)
    other = "vit_medium_patch16_clip_224.tinyclip_yfcc15m"
    with pytest.raises(InputError, match=rf"MODEL.NAME '{other}': weight file .*model.bin is of another architecture"):
        build_model(load_cfg(opts=[*TIMM, "MODEL.NAME", other, "MODEL.PRETRAIN_PATH", str(path)]), 5, 3)

"""Weight files of every kind: each value lands where its name says, and what does not fit is said or refused."""

import json
import zipfile
from contextlib import nullcontext

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from configs import load_cfg
from model import build_model
from model.encoder import resize_positions
from model.weights import ArchitectureError, fill_model, load_weights
from model.weights.file import WeightFile
from tests.conftest import tiny_model
from tests.reference import DATA, NARROW_OPTIONS, published_state
from utils.errors import InputError, MissingFileError


class ClipBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class ClipTower(nn.Module):
    """The names of OpenAI's image tower at a tiny size (4x4 patches of 8 pixels, width 64, 2 blocks)."""

    def __init__(self, width=64, depth=2, embed=64, patch=8):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(17, width))
        self.proj = nn.Parameter(torch.randn(width, embed))
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(ClipBlock(width) for _ in range(depth))


class Clip(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.visual = ClipTower(**sizes)
        self.logit_scale = nn.Parameter(torch.tensor(4.6))  # stands for the text side


@pytest.fixture
def openai_file(tmp_path):
    torch.manual_seed(3)
    clip = Clip().half()
    torch.jit.script(clip).save(str(tmp_path / "ViT-tiny.pt"))
    return tmp_path / "ViT-tiny.pt", {name: value.detach() for name, value in clip.state_dict().items()}


def test_openai_file_fills_the_encoder(openai_file):
    path, state = openai_file
    model = tiny_model()
    report = load_weights(model, path)
    vit, tower = model.encoder.vit, {k.removeprefix("visual."): v.float() for k, v in state.items()}
    torch.testing.assert_close(vit.cls_token[0, 0], tower["class_embedding"])
    torch.testing.assert_close(vit.head.weight, tower["proj"].T)
    torch.testing.assert_close(vit.blocks[1].attn.qkv.weight, tower["transformer.resblocks.1.attn.in_proj_weight"])
    torch.testing.assert_close(vit.blocks[0].mlp.fc2.bias, tower["transformer.resblocks.0.mlp.c_proj.bias"])
    torch.testing.assert_close(vit.pos_embed[0], resize_positions(tower["positional_embedding"], (4, 2)))
    assert report["kind"] == report.kind == "openai" and report.dropped == ["logit_scale"]
    assert not [name for name in report.missing if name.startswith("encoder.vit.")]


@pytest.mark.parametrize(("stride", "grid"), [(14, (4, 2)), (7, (8, 3))])
def test_openai_file_with_patches_of_14_pixels(tmp_path, stride, grid):
    """As ViT-L-14.pt; 64x32 pixels are no multiple of the patch."""
    torch.manual_seed(3)
    clip = Clip(patch=14)
    torch.save(clip.state_dict(), tmp_path / "ViT-L-tiny.pt")
    sizes = {"INPUT__SIZE_TRAIN": "[64,32]", "INPUT__SIZE_TEST": "[64,32]"}
    sizes |= {"MODEL__ENCODER__PATCH": 14, "MODEL__STRIDE_SIZE": f"[{stride},{stride}]"}
    model = tiny_model(MODEL__NAME="ViT-L-14", **sizes)
    load_weights(model, tmp_path / "ViT-L-tiny.pt")
    vit, tower = model.encoder.vit, clip.visual
    assert torch.equal(vit.patch_embed.proj.weight, tower.conv1.weight) and model.encoder.grid == grid
    assert torch.equal(vit.blocks[1].mlp.fc1.weight, tower.transformer.resblocks[1].mlp.c_fc.weight)
    torch.testing.assert_close(vit.pos_embed[0], resize_positions(tower.positional_embedding, grid))
    assert model.encoder(torch.randn(1, 1, 3, 64, 32)).tokens.isfinite().all()


@pytest.mark.slow
def test_pretrain_path_fills_the_encoder_that_name_builds(openai_file, tmp_path):
    small = load_cfg(opts=["MODEL.PRETRAIN_PATH", str(openai_file[0])])
    with pytest.raises(InputError, match="another architecture"):
        build_model(small, 5, 3)
    published = published_state(5, 3, 224, 224)
    tower = {f"visual.{n.removeprefix('image_encoder.')}": v for n, v in published.items() if "image_encoder" in n}
    torch.save(tower, tmp_path / "clip.pth")
    vit = build_model(load_cfg(opts=["MODEL.PRETRAIN_PATH", str(tmp_path / "clip.pth")]), 5, 3).encoder.vit
    assert torch.equal(vit.blocks[11].mlp.fc2.weight, tower["visual.transformer.resblocks.11.mlp.c_proj.weight"])
    assert torch.equal(vit.patch_embed.proj.weight, tower["visual.conv1.weight"])
    torch.testing.assert_close(vit.pos_embed[0], resize_positions(tower["visual.positional_embedding"], (16, 8)))


def test_files_that_run_code_are_refused(tmp_path):
    call = b"cos\nsystem\n(S'touch hacked'\ntR."
    (tmp_path / "pickle.pth").write_bytes(call)
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("archive/data.pkl", call)
        archive.writestr("archive/code/x.py", "")
    for name, message in (("pickle.pth", "cannot be read"), ("archive.pt", "os.system")):
        with pytest.raises(InputError, match=message):
            load_weights(tiny_model(), tmp_path / name)


# 64x16 pixels in patches of 8 are 16 tokens, as many as in the file, but another grid.
@pytest.mark.parametrize(("suffix", "grid"), [("pth", (4, 2)), ("safetensors", (4, 2)), ("pth", (8, 2))])
def test_timm_file_fills_the_encoder(tmp_path, suffix, grid):
    torch.manual_seed(4)
    name = "vit_base_patch16_clip_quickgelu_224.openai"
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8, "num_classes": 64, "img_size": 32}
    vit = timm.create_model(name, pretrained=False, **sizes)
    path = tmp_path / f"timm.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(vit.state_dict(), path)
    size = str([8 * side for side in grid])
    model = tiny_model(INPUT__SIZE_TRAIN=size, INPUT__SIZE_TEST=size)
    report = load_weights(model, path)
    assert report.kind == "timm" and report.dropped == ["head.bias"]
    torch.testing.assert_close(model.encoder.vit.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)
    torch.testing.assert_close(model.encoder.vit.pos_embed[0], resize_positions(vit.pos_embed[0], grid))
    assert not torch.equal(model.encoder.vit.pos_embed, vit.pos_embed)


@pytest.mark.parametrize("network", [True, False])
def test_without_a_path_timm_is_asked_and_its_failure_says_what_to_do(monkeypatch, network):
    create, downloaded = timm.create_model, []

    def create_narrow(name, pretrained=False, **options):
        vit = create(name, pretrained=False, **options | {"embed_dim": 64, "depth": 2, "num_heads": 1})
        if pretrained:
            downloaded.append((name, vit))
            if not network:
                raise OSError("no network\nmore lines")
        return vit

    monkeypatch.setattr(timm, "create_model", create_narrow)
    message = r"no network\); put OpenAI's ViT-B-16.pt on disk and set MODEL.PRETRAIN_PATH"
    with nullcontext() if network else pytest.raises(InputError, match=message):
        ours = build_model(load_cfg(), 5, 3).encoder.vit
    ((name, theirs),) = downloaded
    assert name == "vit_base_patch16_clip_quickgelu_224.openai" and theirs.pos_embed.shape == (1, 197, 64)
    if network:
        torch.testing.assert_close(ours.pos_embed[0], resize_positions(theirs.pos_embed[0], (16, 8)))
        torch.testing.assert_close(ours.head.weight, theirs.head.weight)


def narrow_model(*options):
    """A model of the published depth; tests/test_release_agreement.py fills one of full width."""
    sizes = "MODEL.PRETRAIN_CHOICE none INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32]".split()
    return build_model(load_cfg(opts=[*sizes, *NARROW_OPTIONS, *options]), 5, 3)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("names", ["names_full.json", "names_simple.json"])
def test_published_file_lands_where_its_names_say(tmp_path, names, prefix):
    model, state = narrow_model(), published_state(5, 3, 64, 32, names, narrow=True)
    assert len(state) == (254 if "full" in names else 225) == len(json.loads((DATA / names).read_text()))
    path = tmp_path / "best_model.pth.tar"
    torch.save({prefix + name: value for name, value in state.items()}, path)
    report = load_weights(model, path)
    root = "SSP" if "full" in names else "prompts_generator"
    temporal = "TMD" if "full" in names else "SAT"
    assert report.kind == "published"
    own = model.state_dict()
    layer = f"{temporal}.resblocks.0"
    assert torch.equal(own["tmd.construction.attn.qkv.bias"], state[f"{layer}.message_attn.in_proj_bias"])
    assert torch.equal(own["tmd.diffusion.mlp.fc2.weight"], state[f"{layer}.mlp.c_proj.weight"])
    assert torch.equal(own["encoder.camera_embed"], state["cv_embed"])
    assert torch.equal(own["neck_f.running_var"], state["bottleneck_proj_temp.running_var"])
    assert torch.equal(own["neck_t.bias"], state["bottleneck_proj_temp2.bias"])
    assert torch.equal(own["classifier_t.weight"], state["classifier_proj_temp.weight"])
    if "full" in names:
        assert torch.equal(own["ssp.memory_proj.1.weight"], state["SSP.text_proj.1.weight"])
        assert torch.equal(own["ssp.context_proj.1.weight"], state["SSP.memory_proj.1.weight"])
        assert torch.equal(own["ssp.layers.1.self_norm.weight"], state["SSP.decoder.1.norm1.weight"])
        assert set(report.dropped) == {"classifier_proj_temp2.weight", "SSP.alpha", "SSP.norm.weight", "SSP.norm.bias"}
        assert not report.skipped and not report.missing
    else:
        assert report.dropped == ["classifier_proj_temp2.weight"]
        assert report.skipped and all(name.startswith("prompts_generator.") for name in report.skipped)
        assert all(name.startswith("ssp.") for name in report.missing)
    assert len(report.renamed) + len(report.dropped) + len(report.skipped) == len(state)
    assert not any(root in name for name in report.missing)


def test_simple_file_fills_a_simple_model():
    model = narrow_model("MODEL.SSP.VARIANT", "simple")
    state = published_state(5, 3, 64, 32, "names_simple.json", narrow=True)
    report = fill_model(model, WeightFile("published", state), "file", allow_skipped=False)
    own = model.state_dict()
    assert torch.equal(own["ssp.context_norm.weight"], state["prompts_generator.norm.weight"])
    assert torch.equal(own["ssp.layers.1.cross_norm.bias"], state["prompts_generator.decoder.1.norm1.bias"])
    assert torch.equal(own["ssp.layers.0.mlp_norm.bias"], state["prompts_generator.decoder.0.norm3.bias"])
    assert not report.skipped and not report.missing


def checkpoint_of(model, path):
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    return path


def test_own_checkpoint_fills_everything(tmp_path):
    source, target = tiny_model(), tiny_model()
    report = load_weights(target, checkpoint_of(source, tmp_path / "best.pth"), allow_skipped=False)
    assert report.kind == "checkpoint" and not report.skipped and not report.missing
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    ("there", "skipped"),
    [
        ({"num_classes": 7}, {"classifier_g.weight", "classifier_p.weight", "classifier_t.weight"}),
        ({"num_cameras": 4}, {"encoder.camera_embed"}),
        ({"MODEL__SSP__VARIANT": "simple"}, None),
        ({"MODEL__SSP__LAYERS": 1}, None),
    ],
)
def test_what_does_not_fit_is_skipped_for_tests_and_refused_for_training(tmp_path, there, skipped):
    source = tiny_model(**there)
    path = checkpoint_of(source, tmp_path / "other.pth")
    target = tiny_model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(InputError, match="does not fit this training run"):
        load_weights(target, path, allow_skipped=False)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    report = load_weights(target, path)
    expected = skipped or {name for name in source.state_dict() if name.startswith("ssp.")}
    assert set(report.skipped) == expected
    assert torch.equal(target.encoder.vit.cls_token, source.encoder.vit.cls_token)
    assert (target.encoder.camera_embed is None) == (skipped == {"encoder.camera_embed"})
    for name in before:
        if name.startswith("ssp.") and skipped is None:
            assert torch.equal(before[name], target.state_dict()[name])  # never a mixture of two variants


def test_camera_table_missing_from_the_file_turns_the_embedding_off(tmp_path):
    path = checkpoint_of(tiny_model(MODEL__SIE_CAMERA=False), tmp_path / "no_camera.pth")
    target = tiny_model()
    assert load_weights(target, path).missing == ["encoder.camera_embed"] and target.encoder.camera_embed is None
    with pytest.raises(InputError, match="lacks encoder.camera_embed"):
        load_weights(tiny_model(), path, allow_skipped=False)


@pytest.mark.parametrize(
    "there", [{"MODEL__ENCODER__WIDTH": 128}, {"MODEL__ENCODER__DEPTH": 3}, {"INPUT__SIZE_TRAIN": "[64,16]",
              "INPUT__SIZE_TEST": "[64,16]"}, {"MODEL__ENCODER__DEPTH": 1}],
)  # fmt: skip
def test_another_architecture_is_refused(tmp_path, there):
    path = checkpoint_of(tiny_model(**there), tmp_path / "other.pth")
    with pytest.raises(InputError, match="other.pth is of another architecture"):
        load_weights(tiny_model(), path)


def test_missing_truncated_and_foreign_files(tmp_path):
    model = tiny_model()
    with pytest.raises(MissingFileError, match="absent.pth does not exist"):
        load_weights(model, tmp_path / "absent.pth")
    path = checkpoint_of(model, tmp_path / "cut.pth")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cut.pth cannot be read; it is truncated"):
        load_weights(model, path)
    weight, no_place = torch.zeros(2), "proj.weight has no place in a CLIP ViT; check MODEL.NAME"
    for content, kind, message in (
        ({"features.0.weight": weight}, InputError, "none of CLIP .*first names: features.0.weight"),
        (nn.Linear(2, 2), InputError, "a.pth cannot be read: it holds Python objects besides tensors"),
        ([1, 2], InputError, "holds a list"),
        ({"visual.trunk.patch_embed.proj.weight": weight}, ArchitectureError, no_place),
    ):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(kind, match=message):
            load_weights(model, tmp_path / "a.pth")

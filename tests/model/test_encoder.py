"""The encoder wrapper against timm called directly, and its own additions by hand."""

import pytest
import timm
import torch
from torch.nn import functional as F

from configs import load_cfg
from model import check_model
from model.encoder import CLIPImageEncoder, check_name, create_vit, is_resnet, resize_positions, weights_file
from tests.conftest import tiny_cfg
from tests.tolerance import assert_close, largest
from utils.errors import InputError

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8, "num_classes": 64}


def small_encoder(num_cameras=0, size=(32, 16), stride=(8, 8)) -> CLIPImageEncoder:
    torch.manual_seed(0)
    return CLIPImageEncoder(create_vit("ViT-B-16", size, stride, **SMALL), num_cameras).eval()


def test_agrees_with_timm_called_directly():
    name = "vit_base_patch16_clip_quickgelu_224.openai"
    torch.manual_seed(0)
    sizes = {"embed_dim": 128, "num_heads": 2}  # ViT-B-16's other sizes stay as they are
    plain = timm.create_model(name, pretrained=False, num_classes=512, img_size=(64, 32), **sizes).eval()
    encoder = CLIPImageEncoder(create_vit("ViT-B-16", (64, 32), (16, 16), **sizes)).eval()
    state = plain.state_dict()
    encoder.vit.load_state_dict({key: value for key, value in state.items() if key != "head.bias"})
    clips = torch.randn(2, 3, 3, 64, 32)
    with torch.no_grad():
        tokens, projected, pooled = encoder(clips)
        expected = plain.forward_features(clips.flatten(0, 1)).unflatten(0, (2, 3))
        logits = plain(clips.flatten(0, 1)).unflatten(0, (2, 3)) - state["head.bias"]
    assert tokens.shape == (2, 3, 9, 128) and projected.shape == (2, 3, 9, 512)
    assert_close(tokens, expected, terms=4 * 128, passes=12)
    assert_close(projected[:, :, 0], logits, terms=4 * 128, passes=12)


def test_quick_gelu_and_layer_norm_eps():
    vit = create_vit("ViT-B-16", (32, 16), (8, 8), **SMALL)
    x = torch.tensor([-2.0, 0.5, 3.0])
    torch.testing.assert_close(vit.blocks[0].mlp.act(x), x * torch.sigmoid(1.702 * x))
    assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert vit.head.bias is None


@pytest.mark.parametrize("num_clips", [1, 5])
def test_camera_moves_the_class_token_of_its_clip_only(num_clips):
    encoder = small_encoder(num_cameras=3)
    encoder.sie_coefficient = 3.0
    seen = []
    encoder.vit.norm_pre.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    clips, camids = torch.randn(num_clips, 4, 3, 32, 16), torch.arange(num_clips) % 3
    with torch.no_grad():
        encoder(clips, camids)
        encoder(clips, None)
    shift = (seen[0] - seen[1]).unflatten(0, (num_clips, 4))
    expected = 3 * encoder.camera_embed[camids][:, None].expand(-1, 4, -1)
    assert_close(shift[:, :, 0], expected, terms=2, scale=largest(seen[0]))
    assert not shift[:, :, 1:].any()


def test_positions_are_resized_bilinearly_and_keep_the_class():
    positions = torch.randn(1 + 14 * 14, 8)
    resized = resize_positions(positions, (16, 8))
    grid = positions[1:].reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (16, 8), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).reshape(-1, 8)
    torch.testing.assert_close(resized[0], positions[0])
    torch.testing.assert_close(resized[1:], expected)
    torch.testing.assert_close(resize_positions(positions, (14, 14)), positions)
    with pytest.raises(InputError, match="grid"):
        resize_positions(torch.randn(1 + 15, 8), (4, 2))


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_clip_224.laion2b"],
)
def test_variants_that_openai_weights_do_not_fit_are_refused(name):
    with pytest.raises(InputError, match="not the variant with QuickGELU .* MODEL.PRETRAIN_CHOICE 'timm' takes"):
        check_name(name, "openai")
    check_name(name)
    check_name("ViT-B-16", "openai")


def test_sizes_that_timm_cannot_build_are_named():
    with pytest.raises(InputError, match="MODEL.ENCODER .*'num_heads': 5"):
        create_vit("ViT-B-16", (32, 16), (8, 8), **(SMALL | {"num_heads": 5}))
    with pytest.raises(InputError, match="smaller than a patch"):
        create_vit("ViT-B-16", (4, 4), (8, 8), **SMALL)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, "MODEL.NAME .* must be ViT-B-16, ViT-L-14, RN50 or another CLIP")
          for name in ("ViT-B-17", "resnet50", "vit_base_patch16_224", "resnet50_clip_gap.openai",
                       "vit_base_patch16_siglip_224.webli", "eva02_base_patch16_clip_224.merged2b",
                       "vit_base_mci_224.apple_mclip")),
        ("vit_base_patch16_clip_224.openai_ft_in1k", "is a classifier made from CLIP"),
        ("vit_base_patch16_clip_224", "is a classifier made from CLIP .*take vit_base_patch16_clip_224 with .*laion2b"),
        ("vit_base_patch16_clip_384", "is a classifier made from CLIP .*take CLIP, such as vit_base_patch16_clip_qui"),
        ("vit_base_patch16_clip_224.nonsense", "timm knows no weights 'nonsense' of it; take .*_224 with .* laion2b"),
        ("resnet50_clip.nonsense", "timm knows no weights 'nonsense' of it"),
    ],
)  # fmt: skip
def test_names_that_are_no_clip_encoder_are_refused(name, message):
    for choice in ("openai", "timm", "none"):
        with pytest.raises(InputError, match=message):
            check_name(name, choice)


def test_timm_weights_are_taken_in_the_architecture_with_the_activation_they_were_made_with():
    """timm marks weights made with QuickGELU, and offers them under the name with GELU too."""
    records = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained("vit_*_clip_*")}
    marked = {name for name, record in records.items() if "natively QuickGELU" in "".join(record.notes or ())}
    unmarked = "vit_base_patch16_clip_224.dfn2b"  # open_clip has it as one with QuickGELU
    assert len(marked) > 30 and unmarked in records
    for name in records:
        quick = name.replace("_clip_", "_clip_quickgelu_")
        if "_ft_" in name or (name in marked | {unmarked} and "quickgelu" not in name):
            message = "a classifier" if "_ft_" in name else f"has GELU, the weights .* QuickGELU; take {quick}$"
            with pytest.raises(InputError, match=message):
                check_name(name, "timm")
        else:
            check_name(name, "timm")
    for name in ("ViT-B-16", "RN50", unmarked.replace("_clip_", "_clip_quickgelu_"), "resnet50_clip.yfcc15m"):
        check_name(name, "timm")


def test_a_resnet_is_told_from_a_vit():
    resnets = ["RN50", "resnet50_clip", "resnet50_clip.openai", "resnet101_clip.openai", "resnet50x4_clip.openai"]
    for name in resnets:
        check_name(name, "openai")
        assert is_resnet(name)
        with pytest.raises(ValueError, match="is a ResNet"):
            create_vit(name, (64, 32))
    assert not any(is_resnet(name) for name in ("ViT-B-16", "ViT-L-14", "vit_base_patch32_clip_224.openai"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ViT-B-16", "OpenAI's ViT-B-16.pt"),
        ("ViT-L-14", "OpenAI's ViT-L-14.pt"),
        ("vit_large_patch14_clip_quickgelu_336.openai", "OpenAI's ViT-L-14-336px.pt"),
        ("vit_base_patch32_clip_quickgelu_224.openai", "OpenAI's ViT-B-32.pt"),
        ("RN50", "OpenAI's RN50.pt"),
        ("resnet50x4_clip", "OpenAI's RN50x4.pt"),
        ("resnet50_clip.cc12m", "model.safetensors of https://huggingface.co/timm/resnet50_clip.cc12m"),
    ],
)
def test_the_file_to_put_on_disk_is_named(name, words):
    check_name(name, "openai")
    assert weights_file(name) == words


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("ViT-B-16", (768, 512, 12, 12)),
        ("ViT-L-14", (1024, 768, 24, 16)),
        ("vit_large_patch14_clip_quickgelu_336.openai", (1024, 768, 24, 16)),
        ("vit_huge_patch14_clip_quickgelu_224.dfn5b", (1280, 1024, 32, 16)),
        ("vit_base_patch32_clip_quickgelu_224.openai", (768, 512, 12, 12)),
    ],
)
def test_sizes_of_another_clip_vit_are_read_from_it(name, sizes):
    with torch.device("meta"):
        encoder = CLIPImageEncoder(create_vit(name, (224, 112)))
    blocks = encoder.vit.blocks
    assert (encoder.width, encoder.embed_width, len(blocks), blocks[0].attn.num_heads) == sizes
    assert encoder.pooled_width == encoder.width and encoder.pooled_in_retrieval


@pytest.mark.parametrize(("stride", "grid"), [(None, (18, 9)), ((7, 7), (35, 17))])
def test_patches_that_do_not_fill_the_image(stride, grid):
    """256x128 pixels hold 18.3 x 9.1 patches of 14 pixels; the rest on the right and below is left out."""
    torch.manual_seed(0)
    encoder = CLIPImageEncoder(create_vit("ViT-L-14", (256, 128), stride, embed_dim=64, depth=1, num_heads=1)).eval()
    assert encoder.grid == grid and encoder.vit.pos_embed.shape == (1, 1 + grid[0] * grid[1], 64)
    clips = torch.randn(1, 2, 3, 256, 128)
    seen = []
    encoder.vit.norm_pre.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        tokens, projected, _ = encoder(clips)
        columns = F.unfold(clips[0], kernel_size=14, stride=stride or 14)  # (T, 3*14*14, h*w)
        weight = encoder.vit.patch_embed.proj.weight.flatten(1)
        expected = (weight @ columns).transpose(1, 2) + encoder.vit.pos_embed[:, 1:]
    assert tokens.shape == (1, 2, 1 + grid[0] * grid[1], 64) and projected.shape[-1] == 768
    assert_close(seen[0][:, 1:], expected, terms=3 * 14 * 14)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_penultimate_class_token_is_what_timms_last_block_gets(recompute):
    encoder = small_encoder()
    encoder.grad_checkpoint, clips, seen = recompute, torch.randn(2, 3, 3, 32, 16), []
    encoder.vit.blocks[-1].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    plain = encoder(clips)
    encoder.penultimate = True
    tokens = encoder(clips)
    assert plain.penultimate is None and len(plain) == 3
    assert all(torch.equal(one, other) for one, other in zip(plain, tokens))
    assert torch.equal(tokens.penultimate, seen[1][:, 0].unflatten(0, (2, 3)))
    assert (tokens.penultimate - tokens.pooled).abs().max() > 0.1


def test_an_encoder_of_one_block_has_its_input_before_the_last_block():
    encoder = CLIPImageEncoder(create_vit("ViT-B-16", (32, 16), (8, 8), **SMALL | {"depth": 1}), penultimate=True)
    expected = encoder.vit.norm_pre((encoder.vit.cls_token + encoder.vit.pos_embed)[:, :1]).expand(2, -1, -1)
    for encoder.grad_checkpoint in (False, True):
        assert torch.equal(encoder(torch.randn(2, 1, 3, 32, 16)).penultimate, expected)


@pytest.mark.parametrize("penultimate", [False, True])
def test_gradient_checkpointing_changes_nothing_and_runs_each_block_again(penultimate):
    encoder = small_encoder(num_cameras=2)
    encoder.penultimate = penultimate
    calls, blocks = [], len(encoder.vit.blocks)
    for block in encoder.vit.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    clips, camids = torch.randn(2, 2, 3, 32, 16), torch.tensor([0, 1])
    results = []
    for recompute in (False, True):
        encoder.grad_checkpoint = recompute
        encoder.zero_grad()
        outputs = encoder(clips, camids)
        assert len(calls) == (2 if recompute else 1) * blocks and len(outputs) == (4 if penultimate else 3)
        sum(output.square().sum() + output.sin().sum() for output in outputs).backward()
        results.append([*outputs, *(parameter.grad for parameter in encoder.parameters())])
    assert len(calls) == 3 * blocks  # once without, twice with
    for plain, checkpointed in zip(*results):
        torch.testing.assert_close(checkpointed, plain)
    with torch.no_grad():
        encoder(clips, camids)
    assert len(calls) == 4 * blocks


def test_stride_beyond_the_patch_is_refused():
    message = r"MODEL.STRIDE_SIZE \[8, 16\] is larger than a patch of 8 pixels, so .*; set it to \[8, 8\] or less"
    with pytest.raises(InputError, match=message):
        create_vit("ViT-B-16", (64, 32), (8, 16), **SMALL)
    large = load_cfg(opts=["MODEL.NAME", "ViT-L-14"])
    with pytest.raises(InputError, match=r"MODEL.STRIDE_SIZE \[16, 16\] is larger than a patch of 14 pixels"):
        check_model(large)  # before data are read
    check_model(load_cfg(opts=["MODEL.NAME", "ViT-L-14", "MODEL.STRIDE_SIZE", "14"]))
    check_model(tiny_cfg(MODEL__STRIDE_SIZE="[8,8]"))
    with pytest.raises(InputError, match="larger than a patch of 8 pixels"):
        check_model(tiny_cfg(MODEL__STRIDE_SIZE="[8,9]"))

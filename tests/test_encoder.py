"""The encoder wrapper against timm called directly, and its own additions by hand."""

import pytest
import timm
import torch
from torch.nn import functional as F

from model.encoder import CLIPImageEncoder, check_name, create_vit, resize_positions
from utils.errors import InputError

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8, "num_classes": 64}


def small_encoder(num_cameras=0, size=(32, 16), stride=(8, 8)) -> CLIPImageEncoder:
    torch.manual_seed(0)
    return CLIPImageEncoder(create_vit("ViT-B-16", size, stride, **SMALL), num_cameras).eval()


def test_agrees_with_timm_called_directly():
    name = "vit_base_patch16_clip_quickgelu_224.openai"
    torch.manual_seed(0)
    plain = timm.create_model(name, pretrained=False, num_classes=512, img_size=(64, 32)).eval()
    encoder = CLIPImageEncoder(create_vit("ViT-B-16", (64, 32), (16, 16))).eval()
    state = plain.state_dict()
    encoder.vit.load_state_dict({key: value for key, value in state.items() if key != "head.bias"})
    clips = torch.randn(2, 3, 3, 64, 32)
    with torch.no_grad():
        tokens, projected, pooled = encoder(clips)
        expected = plain.forward_features(clips.flatten(0, 1)).unflatten(0, (2, 3))
        logits = plain(clips.flatten(0, 1)).unflatten(0, (2, 3)) - state["head.bias"]
    assert tokens.shape == (2, 3, 9, 768) and projected.shape == (2, 3, 9, 512)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(projected[:, :, 0], logits, atol=1e-5, rtol=1e-5)


def test_quick_gelu_and_layer_norm_eps():
    vit = create_vit("ViT-B-16", (32, 16), (8, 8), **SMALL)
    x = torch.tensor([-2.0, 0.5, 3.0])
    torch.testing.assert_close(vit.blocks[0].mlp.act(x), x * torch.sigmoid(1.702 * x))
    assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert vit.head.bias is None


@pytest.mark.parametrize("num_clips", [1, 5])
def test_camera_moves_the_class_token_of_its_clip_only(num_clips):
    encoder = small_encoder(num_cameras=3)
    seen = []
    encoder.vit.norm_pre.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    clips, camids = torch.randn(num_clips, 4, 3, 32, 16), torch.arange(num_clips) % 3
    with torch.no_grad():
        encoder(clips, camids)
        encoder(clips, None)
    shift = (seen[0] - seen[1]).unflatten(0, (num_clips, 4))
    torch.testing.assert_close(shift[:, :, 0], encoder.camera_embed[camids][:, None].expand(-1, 4, -1))
    assert not shift[:, :, 1:].any()


def test_sie_coefficient_scales_the_camera_embedding():
    encoder = small_encoder(num_cameras=2)
    clips, camids = torch.randn(1, 1, 3, 32, 16), torch.tensor([1])
    with torch.no_grad():
        encoder.sie_coefficient = 3.0
        scaled = encoder(clips, camids).tokens
        encoder.sie_coefficient = 1.0
        encoder.camera_embed *= 3
        torch.testing.assert_close(scaled, encoder(clips, camids).tokens)


def test_overlapping_stride_gives_the_grid_of_the_method():
    encoder = small_encoder(size=(256, 128), stride=(6, 6))
    assert encoder.vit.patch_embed.grid_size == ((256 - 8) // 6 + 1, (128 - 8) // 6 + 1)
    with torch.no_grad():
        assert encoder(torch.randn(1, 1, 3, 256, 128)).tokens.shape == (1, 1, 1 + 42 * 21, 64)


def test_positions_are_resized_bilinearly_and_keep_the_class():
    positions = torch.randn(1 + 14 * 14, 8)
    resized = resize_positions(positions, (16, 8))
    grid = positions[1:].reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (16, 8), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).reshape(-1, 8)
    torch.testing.assert_close(resized[0], positions[0])
    torch.testing.assert_close(resized[1:], expected)
    torch.testing.assert_close(resize_positions(positions, (14, 14)), positions)


def test_positions_that_form_no_square_are_refused():
    with pytest.raises(InputError, match="grid"):
        resize_positions(torch.randn(1 + 15, 8), (4, 2))


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_clip_224.laion2b"],
)
def test_variants_that_openai_weights_do_not_fit_are_refused(name):
    with pytest.raises(InputError, match="not the variant with QuickGELU"):
        check_name(name, openai_weights=True)
    check_name(name)
    check_name("ViT-B-16", openai_weights=True)


def test_sizes_that_timm_cannot_build_are_named():
    with pytest.raises(InputError, match="MODEL.ENCODER .*'num_heads': 5"):
        create_vit("ViT-B-16", (32, 16), (8, 8), **(SMALL | {"num_heads": 5}))


@pytest.mark.parametrize("name", ["ViT-B-17", "resnet50", "vit_base_patch16_224"])
def test_names_that_are_no_clip_vit_are_refused(name):
    with pytest.raises(InputError, match="MODEL.NAME"):
        create_vit(name, (32, 16))


def test_widths_of_another_clip_vit_are_read_from_it():
    with torch.device("meta"):
        vit = create_vit("vit_large_patch14_clip_quickgelu_224.openai", (224, 112))
    assert (vit.embed_dim, vit.num_classes, len(vit.blocks)) == (1024, 768, 24)


def test_image_smaller_than_a_patch_is_refused():
    with pytest.raises(InputError, match="smaller than a patch"):
        create_vit("ViT-B-16", (4, 4), (8, 8), **SMALL)


def test_stride_beyond_the_patch_is_said(caplog):
    create_vit("ViT-B-16", (64, 32), (16, 16), **SMALL)
    assert "MODEL.STRIDE_SIZE (16, 16) is larger than a patch" in caplog.text

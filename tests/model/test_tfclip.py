"""The assembled network: shapes, invariances, gradients."""

import pytest
import torch

from configs import load_cfg
from loss import build_criterion
from model import build_model
from model.encoder import ClipTokens
from model.tfclip import TFCLIP
from tests.conftest import tiny_model
from tests.tolerance import TINY_LAYERS, TINY_SUM, assert_close

NUM_CLASSES, NUM_CAMERAS = 5, 3


def batch(num_clips=4, num_frames=2):
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(num_clips, num_frames, 3, 32, 16, generator=generator)
    return clips, torch.arange(num_clips) % NUM_CAMERAS, torch.randn(NUM_CLASSES, 64, generator=generator)


@pytest.mark.parametrize("variant", ["full", "simple"])
def test_output_shapes(variant):
    model = tiny_model(seed=0, MODEL__SSP__VARIANT=variant)
    clips, camids, memory = batch()
    output = model(clips, camids, memory)
    assert [tuple(s.shape) for s in output.scores] == [(4, 5)] * 3
    assert [tuple(f.shape) for f in output.features] == [(4, 64)] * 3
    assert output.frame_scores.shape == (8, 5) and output.v2m_logits.shape == (4, 5)
    assert model.embed(clips, camids).shape == (4, 192) and model.encode_memory(clips).shape == (4, 64)
    assert model(clips, camids, None).v2m_logits is None


def test_every_clip_has_the_output_it_has_without_the_others():
    model = tiny_model(seed=0).eval()
    clips, camids, memory = batch()
    output, feature = model(clips, camids, memory), model.embed(clips, camids)
    for clip in range(4):
        one = slice(clip, clip + 1)
        single = model(clips[one], camids[one], memory)
        assert_close(output.frame_scores.unflatten(0, (4, 2))[clip], single.frame_scores, TINY_SUM, TINY_LAYERS)
        assert_close(output.v2m_logits[one], single.v2m_logits, TINY_SUM, TINY_LAYERS)
        assert_close(feature[one], model.embed(clips[one], camids[one]), TINY_SUM, TINY_LAYERS)


def test_embedding_is_the_three_features_before_or_after_their_necks():
    model = tiny_model(seed=0).eval()
    clips, camids, _ = batch()
    features = model(clips, camids, None).features
    assert_close(model.embed(clips, camids), torch.cat(features, dim=1), TINY_SUM, TINY_LAYERS)
    with torch.no_grad():
        for neck in (model.neck_g, model.neck_p, model.neck_t):
            neck.running_mean.normal_()
    after = tiny_model(seed=0, TEST__NECK_FEAT="after").eval()
    after.load_state_dict(model.state_dict())
    expected = torch.cat([neck(f) for neck, f in zip((model.neck_g, model.neck_p, model.neck_t), features)], dim=1)
    assert_close(after.embed(clips, camids), expected, TINY_SUM, TINY_LAYERS)
    assert (expected - torch.cat(features, dim=1)).abs().max() > 0.1


def test_features_are_the_means_the_method_names():
    model = tiny_model(seed=0).eval()
    clips, camids, memory = batch()
    tokens, projected, _ = model.encoder(clips, camids)
    v_g, v_p, v_t = model(clips, camids, memory).features
    assert_close(v_g, tokens[:, :, 0].mean(dim=1), TINY_SUM, TINY_LAYERS)
    assert_close(v_p, projected[:, :, 0].mean(dim=1), TINY_SUM, TINY_LAYERS)
    assert_close(v_t, model.tmd(tokens).mean(dim=2).mean(dim=1), TINY_SUM, TINY_LAYERS)
    updated = model.ssp(memory.expand(4, -1, -1), projected.mean(dim=1))
    by_hand = torch.stack([torch.stack([v_p[b] @ updated[b, c] for c in range(5)]) for b in range(4)])
    assert_close(model(clips, camids, memory).v2m_logits, by_hand, TINY_SUM, TINY_LAYERS)


def test_memory_feature_ignores_cameras():
    model = tiny_model(seed=0).eval()
    clips, camids, _ = batch()
    expected = model.encoder(clips).projected[:, :, 0].mean(dim=1)
    assert_close(model.encode_memory(clips), expected, TINY_SUM, TINY_LAYERS)
    assert (model.encode_memory(clips) - model(clips, camids, None).features[1]).abs().max() > 1e-5


@pytest.mark.parametrize("variant", ["full", "simple"])
def test_every_trainable_parameter_receives_a_gradient(variant):
    model = tiny_model(seed=0, MODEL__SSP__VARIANT=variant)
    clips, camids, memory = batch()
    pids = torch.tensor([0, 0, 1, 1])
    build_criterion(load_cfg())(model(clips, camids, memory), pids)["total"].backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"neck_{letter}.bias" for letter in "gptf"}


def test_temporal_branch_sends_no_gradient_into_the_encoder():
    model = tiny_model(seed=0)
    clips, camids, _ = batch()
    model(clips, camids, None).features[2].sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.tmd.construction.fc.weight.grad is not None


def test_camera_embedding_is_absent_when_switched_off():
    model = tiny_model(seed=0, MODEL__SIE_CAMERA=False).eval()
    clips, camids, _ = batch()
    assert model.encoder.camera_embed is None
    assert_close(model.embed(clips, camids), model.embed(clips, None), TINY_SUM, TINY_LAYERS)


def test_heads_start_as_the_method_says():
    model = tiny_model(seed=0)
    for letter in "gptf":
        neck = getattr(model, f"neck_{letter}")
        assert (neck.weight == 1).all() and (neck.bias == 0).all()
    for letter in "gpt":
        classifier = getattr(model, f"classifier_{letter}")
        assert classifier.bias is None and 0.0005 < classifier.weight.std() < 0.0015


def test_parameter_count_of_the_paper():
    """Row 4 of Table 2 (CLIP-M and TMD, no SSP): 97.02 M with 625 identities; ours counts all classifiers."""
    cfg = load_cfg(opts=["MODEL.PRETRAIN_CHOICE", "none"])
    with torch.device("meta"):
        model = build_model(cfg, 625, 6)
    without_ssp = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("ssp."))
    assert without_ssp / 1e6 == pytest.approx(97.02, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_and_memory_features_are_float32_under_autocast(dtype):
    """Plain dot products of CLIP's size would be rounded to steps of 0.5 in bfloat16."""
    model = tiny_model(seed=0).eval()
    clips, camids, memory = batch()
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        output, feature = model(clips, camids, memory), model.encode_memory(clips)
        projected = model.encoder(clips, camids).projected
        updated = model.ssp(memory[None], projected.mean(dim=1))  # as the model does: to the last bit of `dtype`
    assert projected.dtype is dtype and output.v2m_logits.dtype is feature.dtype is torch.float32
    assert all(feature.dtype is torch.float32 for feature in output.features)
    expected = torch.einsum("be,bce->bc", projected[:, :, 0].float().mean(dim=1), updated.float())
    assert_close(output.v2m_logits, expected, terms=64)


class HalfEncoder(torch.nn.Module):
    """What an encoder gives under autocast: bfloat16 tokens."""

    width = embed_width = pooled_width = 64
    camera_embed, pooled_in_retrieval = None, True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.tokens = (100 * torch.randn(2, 7, 3, 64, generator=generator)).bfloat16()

    def forward(self, _clips, _camids=None):
        return ClipTokens(self.tokens, self.tokens.flip(2), self.tokens[:, :, 1])


def test_means_over_frames_are_float32_when_the_encoder_is_not():
    model, clips = TFCLIP(HalfEncoder(), None, None, NUM_CLASSES), torch.zeros(2, 7, 3, 8, 8)
    tokens = model.encoder.tokens.float()
    v_g, v_p = model(clips, None, None).features
    assert_close(v_g, tokens[:, :, 1].mean(dim=1), terms=7)
    assert_close(v_p, tokens[:, :, 2].mean(dim=1), terms=7)
    torch.testing.assert_close(model.encode_memory(clips), v_p, rtol=0, atol=0)

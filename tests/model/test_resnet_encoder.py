"""The RN50 encoder against timm's own class; weights/test_resnet_weights.py has OpenAI's, with the last stride 1."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from model.bnneck import BNNeck
from model.encoder import resize_positions
from model.resnet_encoder import CLIPResNetEncoder, create_resnet
from model.tfclip import TFCLIP
from tests.tolerance import RN50_LAYERS, RN50_SUM, assert_close
from utils.errors import InputError

SIZE = (64, 32)


def make_norms_matter(cnn: nn.Module) -> nn.Module:
    """A new ResNet ends its residual branches with a weight of 0, and has statistics of 0 and 1."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for norm in cnn.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for values, low, high in (
                    (norm.weight, 0.4, 0.8),
                    (norm.bias, -0.1, 0.1),
                    (norm.running_mean, -0.1, 0.1),
                    (norm.running_var, 0.5, 1.5),
                ):
                    values.uniform_(low, high, generator=generator)
    return cnn


@pytest.fixture(scope="module")
def encoder() -> CLIPResNetEncoder:
    torch.manual_seed(0)
    return CLIPResNetEncoder(make_norms_matter(create_resnet("RN50", SIZE))).eval()


@pytest.fixture(scope="module")
def clips():
    return torch.randn(2, 2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_class_token_is_what_timm_gives_with_its_own_strides():
    torch.manual_seed(0)
    plain = timm.create_model("resnet50_clip.openai", pretrained=False, num_classes=1024, img_size=(64, 64))
    stock = CLIPResNetEncoder(make_norms_matter(plain)).eval()
    clips = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        tokens = stock(clips).tokens
        assert_close(tokens[0, :, 0], plain(clips[0]), RN50_SUM, RN50_LAYERS)
        plain.head.pool_type = ""
        assert_close(tokens[0, :, 1:].mT.unflatten(2, (2, 2)), plain(clips[0]), RN50_SUM, RN50_LAYERS)


def test_the_grid_is_a_sixteenth_of_the_image_without_dilation(encoder):
    with torch.device("meta"):
        big = CLIPResNetEncoder(create_resnet("RN50", (256, 128)))
        tokens, _, pooled = big(torch.empty(2, 3, 3, 256, 128))
    assert big.grid == (16, 8) and tokens.shape == (2, 3, 129, 1024) and pooled.shape == (2, 3, 2048)
    assert big.cnn.head.pos_embed.shape == (129, 2048)
    assert (big.width, big.embed_width, big.pooled_width) == (1024, 1024, 2048)
    assert {conv.dilation for conv in encoder.modules() if isinstance(conv, nn.Conv2d)} == {(1, 1)}
    pools = [name for name, module in encoder.cnn.named_modules() if "pool" in type(module).__name__.lower()]
    expected = [f"stages.{i}.0.{part}" for i in (1, 2) for part in ("shortcut.pool", "conv2_kxk.aa")]
    assert sorted(pools) == sorted(["stem.pool", *expected, "head"])


@pytest.mark.parametrize(
    ("name", "widths"),
    [("resnet50_clip", (1024, 2048)), ("resnet101_clip.openai", (512, 2048)), ("resnet50x4_clip.openai", (640, 2560))],
)
def test_other_resnets_work_by_name(name, widths):
    with torch.device("meta"):
        other = CLIPResNetEncoder(create_resnet(name, SIZE))
        tokens, _, pooled = other(torch.empty(1, 1, 3, *SIZE))
    assert (other.width, other.pooled_width) == widths == (tokens.shape[-1], pooled.shape[-1])


def test_nothing_is_resized_in_the_forward_pass(encoder, clips, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("interpolated")

    monkeypatch.setattr(F, "interpolate", fail)
    with pytest.raises(AssertionError, match="interpolated"):
        resize_positions(torch.zeros(50, 4), (4, 2))
    with torch.no_grad():
        encoder(clips)


def test_cameras_play_no_part(encoder, clips):
    assert encoder.camera_embed is None
    with torch.no_grad():
        assert torch.equal(encoder(clips, torch.tensor([0, 1])).tokens, encoder(clips).tokens)


def test_sizes_that_do_not_fit_are_refused(encoder):
    for size in ((60, 32), (64, 24)):
        with pytest.raises(InputError, match=r"INPUT.SIZE_TRAIN .* 'RN50' needs multiples of 16 pixels"):
            create_resnet("RN50", size)
    with pytest.raises(ValueError, match=r"\(2, 4\), position embeddings are there for \(4, 2\)"):
        encoder(torch.zeros(1, 1, 3, 32, 64))  # as many positions, but another grid


def test_a_vit_is_no_resnet():
    with pytest.raises(ValueError, match="not a ResNet"):
        create_resnet("ViT-B-16", SIZE)
    with pytest.raises(InputError, match="MODEL.NAME 'resnet50'"):
        create_resnet("resnet50", SIZE)


def test_gradient_checkpointing_changes_nothing_and_counts_each_batch_once(clips):
    torch.manual_seed(0)
    encoder = CLIPResNetEncoder(make_norms_matter(create_resnet("RN50", SIZE))).train()
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    calls = []
    encoder.cnn.stages[2][3].register_forward_pre_hook(lambda *_: calls.append(1))
    results = []
    for recompute in (False, True):
        encoder.load_state_dict(start)
        encoder.grad_checkpoint = recompute
        encoder.zero_grad()
        tokens, _, pooled = encoder(clips)
        (tokens.square().sum() + pooled.sum()).backward()
        gradients = [parameter.grad for parameter in encoder.parameters()]
        results.append([tokens, pooled, *gradients, *(value.clone() for value in encoder.buffers())])
    assert len(calls) == 3  # once without, twice with
    for plain, checkpointed in zip(*results):
        torch.testing.assert_close(checkpointed, plain)
    norms = [norm for norm in encoder.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 1 and norm.momentum == 0.1 for norm in norms)
    assert not torch.equal(norms[-1].running_mean, start["cnn.stages.3.2.conv3_1x1.bn.running_mean"])


def test_retrieval_feature_leaves_the_pooled_feature_out(encoder, clips):
    model = TFCLIP(encoder, None, None, num_classes=5).eval()
    with torch.no_grad():
        tokens, _, pooled = encoder(clips)
        assert_close(model.embed(clips), tokens[:, :, 0].mean(dim=1), RN50_SUM, RN50_LAYERS)
        v_g, v_p = model(clips, None, None).features
    assert_close(v_g, pooled.mean(dim=1), RN50_SUM, RN50_LAYERS)
    assert v_p.shape == (2, 1024) and isinstance(model.neck_g, BNNeck) and model.neck_g.num_features == 2048

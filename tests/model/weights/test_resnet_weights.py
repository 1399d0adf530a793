"""Weight files of CLIP's RN50: OpenAI's archive, timm's file and download, checkpoints, and a ViT's in its place."""

from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn

from configs import load_cfg
from model import pretrained_path
from model.encoder import CLIPImageEncoder, create_vit, resize_positions
from model.resnet_encoder import CLIPResNetEncoder, create_resnet
from model.temporal_heads import TemporalConvolution
from model.tfclip import TFCLIP
from model.weights import ArchitectureError, fill_model, load_pretrained, load_weights
from model.weights.file import WeightFile, read_weight_file
from processor.training.session import check_start
from tests.tolerance import RN50_LAYERS, RN50_SUM, assert_close
from utils.errors import MissingFileError

SIZE = (64, 32)


class Bottleneck(nn.Module):
    """OpenAI's names; strides are average pools."""

    def __init__(self, inside: int, planes: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.pool = nn.AvgPool2d(stride)
        shortcut = [("-1", nn.AvgPool2d(stride)), ("0", nn.Conv2d(inside, 4 * planes, 1, bias=False)),
                    ("1", nn.BatchNorm2d(4 * planes))]  # fmt: skip
        self.downsample = nn.Sequential(OrderedDict(shortcut if stride > 1 or inside != 4 * planes else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.pool(self.bn2(self.conv2(y)).relu())
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class AttentionPool(nn.Module):
    def __init__(self, positions: int, width: int, embed: int, heads: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(1 + positions, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in "qkv")
        self.c_proj = nn.Linear(width, embed)
        self.heads = heads

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + positions
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        outputs = []
        for q_h, k_h, v_h in zip(q.chunk(self.heads, dim=2), k.chunk(self.heads, dim=2), v.chunk(self.heads, dim=2)):
            scores = q_h @ k_h.transpose(1, 2) / q_h.shape[2] ** 0.5
            outputs.append(scores.softmax(dim=2) @ v_h)
        return self.c_proj(torch.cat(outputs, dim=2))


class ResNetTower(nn.Module):
    """The image tower of RN50.pt, names and computation; `last_stride` 1 is what ReID makes of it."""

    def __init__(self, last_stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.pool = nn.AvgPool2d(2)
        self.layer1 = self.layer(64, 64, 3, 1)
        self.layer2 = self.layer(256, 128, 4, 2)
        self.layer3 = self.layer(512, 256, 6, 2)
        self.layer4 = self.layer(1024, 512, 3, last_stride)
        self.attnpool = AttentionPool(49, 2048, 1024, 32)

    @staticmethod
    def layer(inside: int, planes: int, depth: int, stride: int) -> nn.Sequential:
        rest = (Bottleneck(4 * planes, planes, 1) for _ in range(depth - 1))
        return nn.Sequential(Bottleneck(inside, planes, stride), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.pool(self.bn3(self.conv3(x)).relu())
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = ResNetTower(last_stride=2)
        self.logit_scale = nn.Parameter(torch.tensor(4.6))  # stands for the text side


def rn50_model() -> TFCLIP:
    return TFCLIP(CLIPResNetEncoder(create_resnet("RN50", SIZE)), None, None, num_classes=5).eval()


def vit_model() -> TFCLIP:
    vit = create_vit("ViT-B-16", SIZE, (16, 16), embed_dim=64, depth=1, num_heads=1, num_classes=64)
    return TFCLIP(CLIPImageEncoder(vit), None, None, num_classes=5).eval()


@pytest.fixture(scope="module")
def model() -> TFCLIP:
    """Shared; each test that looks at its weights fills all of the encoder first."""
    return rn50_model()


@pytest.fixture(scope="module")
def openai_state():
    """In half precision, as OpenAI keeps it, with values of its own in every tensor."""
    torch.manual_seed(3)
    clip = Clip().half()
    with torch.no_grad():
        for name, value in clip.state_dict().items():
            if value.ndim == 1:
                value.uniform_(*((0.3, 0.7) if name.endswith(("weight", "running_var")) else (-0.1, 0.1)))
            elif not value.is_floating_point():
                value.fill_(7)
    return {name: value.detach().clone() for name, value in clip.state_dict().items()}


@pytest.fixture(scope="module")
def openai_file(openai_state, tmp_path_factory):
    clip = Clip().half()
    clip.load_state_dict(openai_state)
    path = tmp_path_factory.mktemp("weights") / "RN50.pt"
    torch.jit.script(clip).save(str(path))
    return path


def test_openai_file_gives_the_features_of_openai_network_with_the_last_stride_one(openai_file, openai_state, model):
    report = load_weights(model, openai_file, allow_skipped=False)
    assert report.kind == "openai" and report.dropped == ["logit_scale"]
    assert not [name for name in report.missing if name.startswith("encoder.")]
    tower = ResNetTower(last_stride=1).eval()
    tower.load_state_dict({name.removeprefix("visual."): v for name, v in openai_state.items() if "visual" in name})
    assert report.loaded == len(tower.state_dict()) == len(model.encoder.state_dict())
    frames = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens, _, pooled = model.encoder(frames[None])
        layer4 = tower(frames)
        positions = resize_positions(tower.attnpool.positional_embedding, (4, 2))
        expected = tower.attnpool(layer4, positions)
    assert tokens.shape == (1, 2, 9, 1024) and pooled.shape == (1, 2, 2048) and expected.std() > 0.1
    assert_close(tokens[0], expected, RN50_SUM, RN50_LAYERS)
    assert_close(pooled[0], layer4.mean(dim=(2, 3)), RN50_SUM, RN50_LAYERS)
    cnn = model.encoder.cnn.state_dict()
    assert torch.equal(cnn["head.pos_embed"], positions)
    assert torch.equal(cnn["stages.3.0.shortcut.conv.bn.running_var"], tower.layer4[0].downsample[2].running_var)


def test_counters_of_batches_may_lack_and_nothing_else(openai_state, model):
    state = {name: value for name, value in openai_state.items() if not name.endswith("num_batches_tracked")}
    fill_model(model, WeightFile("openai", state), "file", allow_skipped=False)
    del state["visual.layer3.0.downsample.1.running_var"]
    with pytest.raises(ArchitectureError, match=r"it lacks encoder.cnn.stages.2.0.shortcut.conv.bn.running_var; check"):
        fill_model(model, WeightFile("openai", state), "file", allow_skipped=False)
    state |= openai_state | {"visual.layer5.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(ArchitectureError, match=r"encoder.cnn.stages.4.0.conv1_1x1.conv.weight .* has no place"):
        fill_model(model, WeightFile("openai", state), "file", allow_skipped=False)


def test_timm_download_is_loaded_and_resized_here(monkeypatch, model):
    create, downloaded = timm.create_model, {}

    def download(name, pretrained=False, **options):
        assert pretrained and name == "resnet50_clip.openai"
        downloaded["cnn"] = create(name, pretrained=False, **options)
        return downloaded["cnn"]

    monkeypatch.setattr(timm, "create_model", download)
    load_pretrained(model, "RN50", "")
    theirs, ours = downloaded["cnn"].state_dict(), model.encoder.cnn.state_dict()
    positions = theirs.pop("head.pos_embed")
    assert positions.shape == (50, 2048)
    torch.testing.assert_close(ours.pop("head.pos_embed"), resize_positions(positions, (4, 2)))
    assert theirs.keys() == ours.keys() and all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_own_checkpoint_and_timm_file_are_recognised(tmp_path, model):
    names = ["encoder.cnn.stem.conv1.conv.weight", "neck_g.weight"]
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "own.pth")
    assert read_weight_file(tmp_path / "own.pth").kind == "checkpoint"
    state = {name: value[:1] if value.ndim else value for name, value in model.encoder.cnn.state_dict().items()}
    torch.save(state, tmp_path / "timm.pth")
    assert read_weight_file(tmp_path / "timm.pth").kind == "timm"


def test_own_checkpoint_fills_everything(model):
    state = {name: torch.full_like(value, 2) for name, value in model.state_dict().items()}
    report = fill_model(model, WeightFile("checkpoint", state), "file", allow_skipped=False)
    assert not report.missing and not report.skipped and report.loaded == len(state)
    assert all((value == 2).all() for value in model.state_dict().values())


def test_a_temporal_branch_that_lacks_is_refused(model):
    with_head = TFCLIP(model.encoder, None, None, 5, temporal_head=TemporalConvolution(1024))
    with pytest.raises(ArchitectureError, match="it lacks temporal_head.*MODEL.TEMPORAL and MODEL.TMD"):
        fill_model(with_head, WeightFile("checkpoint", model.state_dict()), "file", allow_skipped=True)


@pytest.mark.parametrize("allow_skipped", [True, False])
def test_a_vit_in_place_of_a_resnet_and_the_reverse(model, openai_state, allow_skipped):
    vit = vit_model()
    vit_files = [
        WeightFile("checkpoint", vit.state_dict()),
        WeightFile("timm", vit.encoder.vit.state_dict()),
        WeightFile("openai", {"visual.class_embedding": torch.zeros(768), "visual.conv1.weight": torch.zeros(1)}),
        WeightFile("published", {"image_encoder.transformer.resblocks.0.ln_1.weight": torch.zeros(1)}),
    ]
    for file in vit_files:
        with pytest.raises(ArchitectureError, match="file is .* it holds a CLIP ViT, MODEL.NAME is a CLIP ResNet here"):
            fill_model(model, file, "file", allow_skipped)
    resnet_files = [
        WeightFile("checkpoint", model.state_dict()),
        WeightFile("timm", model.encoder.cnn.state_dict()),
        WeightFile("openai", openai_state),
    ]
    for file in resnet_files:
        with pytest.raises(ArchitectureError, match="file is .* it holds a CLIP ResNet, MODEL.NAME is a CLIP ViT here"):
            fill_model(vit, file, "file", allow_skipped)


def test_a_folder_of_openai_files_serves_every_encoder(tmp_path):
    for name, file in (("ViT-B-16", "ViT-B-16.pt"), ("RN50", "RN50.pt"), ("resnet50_clip.openai", "RN50.pt")):
        cnn = ["MODEL.SIE_CAMERA", "False"] if file == "RN50.pt" else []
        cfg = load_cfg(opts=["MODEL.NAME", name, "MODEL.PRETRAIN_PATH", str(tmp_path), *cnn])
        assert pretrained_path(cfg) == str(tmp_path / file)
    one_file = load_cfg(opts=["MODEL.PRETRAIN_PATH", str(tmp_path / "own.pt")])
    assert pretrained_path(one_file) == str(tmp_path / "own.pt") and pretrained_path(load_cfg()) == ""
    with pytest.raises(MissingFileError, match="RN50.pt does not exist; put OpenAI's RN50.pt there"):
        check_start(load_cfg(opts=["MODEL.NAME", "RN50", "MODEL.PRETRAIN_PATH", str(tmp_path), *cnn]))

"""Switches of the ablations: each adds or removes exactly what it names; every row trains all it builds."""

import pytest
import torch

from configs import ConfigError, load_cfg
from loss import build_criterion
from loss.triplet import batch_hard_triplet
from model import build_model
from model.temporal_heads import TEMPORAL_HEADS
from solver import build_optimizer
from tests.conftest import ROOT, tiny_model, tiny_options
from tests.tolerance import TINY_LAYERS, TINY_SUM, assert_close

ROWS = sorted((ROOT / "configs" / "ablation").glob("*.yml"))
NUM_CLASSES, NUM_CAMERAS = 5, 3
D = E = 64  # widths of the tiny encoder
NECK = 2  # weight and bias per channel


def sizes(model) -> dict[str, int]:
    return {name: p.numel() for name, p in model.named_parameters()}


FULL = {"MODEL__SSP__VARIANT": "simple"}
SSP_LAYER = 4 * E * E + E + 8 * E * E + 5 * E + 2 * 2 * E  # attention (out with bias), MLP, two LayerNorms
ATTENTION = 4 * D * D + 4 * D
TMC = D * D + D + ATTENTION + 2 * D
MD = ATTENTION + 8 * D * D + 5 * D + 2 * 2 * D
HEADS_OF_TMD = 2 * NECK * D + NUM_CLASSES * D  # necks of v_t and f_t, shared classifier


@pytest.mark.parametrize(
    ("overrides", "removed", "prefixes"),
    [
        ({"MODEL__SSP__ENABLED": False}, 2 * SSP_LAYER + 2 * E, ("ssp.",)),
        ({"MODEL__SSP__LAYERS": 1}, SSP_LAYER, ("ssp.layers.1.",)),
        ({"MODEL__SSP__LAYERS": 4}, -2 * SSP_LAYER, ("ssp.layers.2.", "ssp.layers.3.")),
        ({"MODEL__TMD__MD": False}, MD, ("tmd.diffusion.",)),
        ({"MODEL__TMD__TMC": False}, TMC, ("tmd.construction.",)),
        ({"MODEL__TEMPORAL": "TAP"}, TMC + MD + HEADS_OF_TMD, ("tmd.", "neck_t.", "neck_f.", "classifier_t.")),
        ({"MODEL__SIE_CAMERA": False}, NUM_CAMERAS * D, ("encoder.camera_embed",)),
        ({"MODEL__GRAD_CHECKPOINT": True}, 0, ()),
        ({"MODEL__TRIPLET_PENULTIMATE": True}, 0, ()),
        ({"MODEL__MEMORY": "text"}, 0, ()),
        ({"MODEL__MEMORY": "none", "MODEL__SSP__ENABLED": False}, 2 * SSP_LAYER + 2 * E, ("ssp.",)),
    ],
)
def test_a_switch_changes_exactly_the_parameters_it_names(overrides, removed, prefixes):
    whole, switched = sizes(tiny_model(seed=0, **FULL)), sizes(tiny_model(seed=0, **FULL | overrides))
    assert sum(whole.values()) - sum(switched.values()) == removed
    changed = set(whole.items()) ^ set(switched.items())
    assert {name for name, _ in changed if not name.startswith(prefixes or ("-",))} == set()
    assert all(any(name.startswith(prefix) for name, _ in changed) for prefix in prefixes)


@pytest.mark.parametrize("temporal", ["TMD", "TAP"])
def test_the_penultimate_class_token_is_one_more_feature_for_the_triplet_loss_alone(temporal):
    keys = {"MODEL__TEMPORAL": temporal}
    plain, model = (tiny_model(seed=0, MODEL__TRIPLET_PENULTIMATE=on, **keys).eval() for on in (False, True))
    clips, camids, memory = batch()
    seen = []
    model.encoder.vit.blocks[-1].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    without, output = plain(clips, camids, memory), model(clips, camids, memory)
    class_tokens_BTD = seen[0][:, 0].unflatten(0, (4, 2))
    assert_close(output.features[-1], class_tokens_BTD.mean(dim=1), terms=2)
    assert all(torch.equal(a, b) for a, b in zip(without.features, output.features[:-1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(without.scores, output.scores, strict=True))
    assert torch.equal(without.v2m_logits, output.v2m_logits)
    assert torch.equal(plain.embed(clips, camids), model.embed(clips, camids))
    pids = torch.tensor([0, 0, 1, 1])
    before, after = build_criterion(load_cfg())(without, pids), build_criterion(load_cfg())(output, pids)
    term = batch_hard_triplet(output.features[-1], pids, 0.3)
    assert term > 0 and all(torch.equal(before[name], after[name]) for name in ("id", "v2m", "frame_id"))
    assert_close(after["triplet"], before["triplet"] + term, terms=4)
    assert_close(after["total"], before["total"] + term, terms=6)


@pytest.mark.parametrize("name", TEMPORAL_HEADS)
def test_a_temporal_head_brings_a_neck_and_a_classifier_of_its_own(name):
    tap, head = sizes(tiny_model(seed=0, MODEL__TEMPORAL="TAP")), sizes(tiny_model(seed=0, MODEL__TEMPORAL=name))
    added = {key: count for key, count in head.items() if key not in tap}
    heads = {key: count for key, count in added.items() if not key.startswith("temporal_head.")}
    assert heads == {"neck_t.weight": E, "neck_t.bias": E, "classifier_t.weight": NUM_CLASSES * E}
    assert len(heads) < len(added) and tap.items() <= head.items()


def without_gradient(model) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


def batch(num_frames: int = 2):
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(4, num_frames, 3, 32, 16, generator=generator)
    return clips, torch.tensor([0, 1, 2, 0]), torch.randn(NUM_CLASSES, E, generator=generator)


@pytest.mark.parametrize("path", [p for p in ROWS if "_cnn_" not in p.name], ids=lambda path: path.stem)
def test_every_trainable_parameter_gets_a_gradient_in_every_row(path):
    cfg = load_cfg(path, tiny_options())
    torch.manual_seed(0)
    model = build_model(cfg, NUM_CLASSES, NUM_CAMERAS)
    clips, camids, memory = batch(cfg.INPUT.SEQ_LEN)
    output = model(clips, camids, None if cfg.MODEL.MEMORY == "none" else memory)
    losses = build_criterion(cfg)(output, torch.tensor([0, 0, 1, 1]))
    losses["total"].backward()
    assert without_gradient(model) == []
    assert (losses["v2m"] == 0) == (cfg.MODEL.MEMORY == "none")
    assert (losses["frame_id"] == 0) == (cfg.MODEL.TEMPORAL != "TMD")


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_the_learning_rate_table_holds_only_what_a_row_builds(path):
    """build_optimizer refuses a pattern that matches nothing; x10 reaches just the modules that are there."""
    cfg = load_cfg(path, tiny_options() if "_cnn_" not in path.name else [])
    with torch.device("meta"):
        model = build_model(cfg, NUM_CLASSES, NUM_CAMERAS, pretrained=False)
    optimizer = build_optimizer(cfg, model)
    large = {id(p) for g in optimizer.param_groups if g["lr"] >= 10 * cfg.SOLVER.BASE_LR for p in g["params"]}
    named = {name.split(".")[0] for name, p in model.named_parameters() if id(p) in large}
    expected = {"ssp", "tmd", "temporal_head", "classifier_t"} & {name.split(".")[0] for name in sizes(model)}
    assert named == (expected if cfg.SOLVER.LARGE_PROMPT_LR else set())


@pytest.mark.parametrize(
    ("temporal", "width"), [("TMD", 3 * 64), ("TAP", 2 * 64), *((name, 3 * 64) for name in TEMPORAL_HEADS)]
)
def test_every_temporal_branch_feeds_the_retrieval_feature(temporal, width):
    model = tiny_model(seed=0, MODEL__TEMPORAL=temporal).eval()
    clips, camids, memory = batch()
    with torch.no_grad():
        output, feature = model(clips, camids, memory), model.embed(clips, camids)
    assert feature.shape == (4, width) and len(output.scores) == len(output.features) == width // 64
    assert_close(feature, torch.cat(output.features, dim=1), TINY_SUM, TINY_LAYERS)


def test_a_temporal_head_reads_the_projected_class_tokens_and_does_not_train_the_encoder():
    model = tiny_model(seed=0, MODEL__TEMPORAL="CONV1D")
    clips, camids, _ = batch()
    projected = model.encoder(clips, camids).projected
    v_t = model(clips, camids, None).features[2]
    assert_close(v_t, model.temporal_head(projected[:, :, 0]), TINY_SUM, TINY_LAYERS)
    v_t.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())


def test_tmc_alone_makes_its_memory_tokens_the_frame_features():
    model = tiny_model(seed=0, MODEL__TMD__MD=False).eval()
    clips, camids, _ = batch()
    with torch.no_grad():
        memory_BTD = model.tmd.construction(model.encoder(clips, camids).tokens)
        output = model(clips, camids, None)
    assert_close(output.features[2], memory_BTD.mean(dim=1), TINY_SUM, TINY_LAYERS)
    by_hand = model.classifier_t(model.neck_f(memory_BTD.flatten(0, 1)))
    assert_close(output.frame_scores, by_hand, TINY_SUM, TINY_LAYERS)


def test_md_alone_sees_the_tokens_without_a_memory_token():
    model = tiny_model(seed=0, MODEL__TMD__TMC=False).eval()
    clips, camids, _ = batch()
    with torch.no_grad():
        tokens = model.encoder(clips, camids).tokens
        frames_BTD = model.tmd.diffusion(tokens.flatten(0, 1)).mean(dim=1).unflatten(0, (4, 2))
        assert_close(model(clips, camids, None).features[2], frames_BTD.mean(dim=1), TINY_SUM, TINY_LAYERS)


def test_without_ssp_the_logits_are_plain_dot_products_with_the_memory():
    model = tiny_model(seed=0, MODEL__SSP__ENABLED=False).eval()
    clips, camids, memory = batch()
    with torch.no_grad():
        output = model(clips, camids, memory)
    assert_close(output.v2m_logits, output.features[1] @ memory.T, terms=E)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("MODEL.MEMORY none", "MODEL.SSP.ENABLED True needs MODEL.MEMORY clip or text"),
        ("MODEL.TEMPORAL TAP MODEL.TMD.MD False", "MODEL.TMD.MD False needs MODEL.TEMPORAL TMD"),
        ("MODEL.TEMPORAL TRANSF MODEL.TMD.TMC False", "MODEL.TMD.TMC False needs MODEL.TEMPORAL TMD"),
        ("MODEL.TMD.TMC False MODEL.TMD.MD False", "leaves nothing of TMD"),
        ("MODEL.TEMPORAL TRANSF INPUT.SEQ_LEN 78", "INPUT.SEQ_LEN 78 is too long"),
        ("MODEL.TEMPORAL CONV1D_VEIW", "TAP, CONV1D, CONV1D_VIEW, TRANSF, TRANSF_CLS, found 'CONV1D_VEIW'"),
        ("MODEL.TEMPORAL LSTM", "MODEL.TEMPORAL must be one of TMD, TAP"),
        ("MODEL.MEMORY image", "MODEL.MEMORY must be one of clip, text, none"),
        ("MODEL.SSP.LAYERS 0", "MODEL.SSP.LAYERS must lie between 1 and 64"),
        ("MODEL.NAME RN50", "MODEL.SIE_CAMERA True needs a ViT"),
        ("MODEL.NAME RN50 MODEL.SIE_CAMERA False MODEL.STRIDE_SIZE 12", "MODEL.STRIDE_SIZE"),
        ("MODEL.NAME RN50 MODEL.SIE_CAMERA False MODEL.TRIPLET_PENULTIMATE True", "PENULTIMATE True needs a ViT"),
        (
            "MODEL.NAME RN50 MODEL.SIE_CAMERA False MODEL.PRETRAIN_CHOICE none MODEL.ENCODER.DEPTH 2",
            "MODEL.ENCODER.DEPTH belongs to a ViT",
        ),
        ("MODEL.ENCODER.TEXT_DEPTH 2", "MODEL.ENCODER.TEXT_DEPTH needs MODEL.PRETRAIN_CHOICE 'none'"),
    ],
)
def test_forbidden_combinations_are_refused_by_name(pairs, message):
    with pytest.raises(ConfigError) as error:
        load_cfg(opts=pairs.split())
    assert message in str(error.value)


def test_a_clip_of_78_frames_suits_every_temporal_branch_but_transf():
    for name in ("TMD", "TAP", *TEMPORAL_HEADS):
        if name != "TRANSF":
            assert load_cfg(opts=["MODEL.TEMPORAL", name, "INPUT.SEQ_LEN", "78"]).MODEL.TEMPORAL == name


@pytest.mark.parametrize("row", ["table1_cnn_baseline", "table1_cnn_tfclip"])
def test_every_trainable_parameter_gets_a_gradient_on_rn50(row):
    path = next(path for path in ROWS if path.stem == row)
    sizes = ["INPUT.SIZE_TRAIN", "[32, 16]", "INPUT.SIZE_TEST", "[32, 16]", "MODEL.PRETRAIN_CHOICE", "none"]
    cfg = load_cfg(path, sizes)
    torch.manual_seed(0)
    model = build_model(cfg, NUM_CLASSES, NUM_CAMERAS)
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # from scratch the last one of a block starts at 0 and blocks it
            torch.nn.init.ones_(module.weight)
    clips, camids, _ = batch()
    memory = None if cfg.MODEL.MEMORY == "none" else torch.randn(NUM_CLASSES, 1024)
    output = model(clips, camids, memory)
    assert [feature.shape[1] for feature in output.features] == [2048, 1024, 1024][: len(output.features)]
    build_criterion(cfg)(output, torch.tensor([0, 0, 1, 1]))["total"].backward()
    assert without_gradient(model) == []
    assert model.embed(clips).shape == (4, 1024 * (len(output.features) - 1))

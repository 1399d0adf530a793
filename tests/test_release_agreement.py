"""The authors' release computed these numbers; this project must compute them too (tests/reference.py)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from configs import load_cfg
from loss import build_criterion
from model import build_model
from model.weights import fill_model
from model.weights.file import WeightFile
from solver import build_optimizer
from tests.reference import DATA, inputs, published_state
from tests.tolerance import approx, assert_close

NUM_CLASSES, NUM_CAMERAS, EVAL_SHAPE, TRAIN_SHAPE = 11, 6, (5, 4, 3, 64, 32), (8, 4, 3, 64, 32)
LONGEST_SUM, LAYERS = 4 * 768, 12 + 2 + 2  # in an MLP; of encoder, TMD and SSP
OPTIONS = (
    "MODEL.PRETRAIN_CHOICE none INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32] INPUT.SEQ_LEN 4 "
    "SOLVER.LARGE_PROMPT_LR False"
).split()


@pytest.fixture(scope="module")
def release():
    with np.load(DATA / "release_small.npz") as file:
        return {name: file[name] for name in file.files}


def training_step(ours, release, step):
    """One Adam step as the release did it; its output, the losses and the gradient norms, before they move a weight."""
    pids, cams = (torch.from_numpy(release[f"traj_{name}"][step]).long() for name in ("y", "cam"))
    output = ours.model(inputs(f"dev/x_train{step}", TRAIN_SHAPE), cams, 0.5 * inputs("dev/memory", (NUM_CLASSES, 512)))
    losses = ours.criterion(output, pids)
    ours.optimizer.zero_grad()
    losses["total"].backward()
    gradients = {name: None if p.grad is None else p.grad.norm().item() for name, p in ours.model.named_parameters()}
    return output, {name: value.item() for name, value in losses.items()}, gradients


@pytest.fixture(scope="module")
def ours(release):
    """What the release's file holds of untrained weights, computed here in one go: features, step 0 with gradients."""
    cfg = load_cfg(opts=OPTIONS)
    model = build_model(cfg, NUM_CLASSES, NUM_CAMERAS)
    file = WeightFile("published", published_state(NUM_CLASSES, NUM_CAMERAS, 64, 32))
    report = fill_model(model, file, "reference", allow_skipped=False)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    clips, camids = inputs("dev/x_eval", EVAL_SHAPE), torch.from_numpy(release["eval_cam"]).long()
    model.eval()
    result = SimpleNamespace(report=report, model=model, clips=clips, camids=camids)
    with torch.no_grad():
        result.tokens, result.projected, _ = model.encoder(clips, camids)
        result.tmd_tokens = model.tmd(result.tokens)
        result.embedding = model.embed(clips, camids)
        result.memory_feature = model.encode_memory(clips)
    result.criterion, result.optimizer = build_criterion(cfg), build_optimizer(cfg, model.train())
    result.output, losses, result.gradients = training_step(result, release, 0)
    result.losses = [losses]
    return result


@pytest.fixture(scope="module")
def ours_after_three_steps(ours, release):
    """Losses of all three steps and the features of the weights that come out of them."""
    result = SimpleNamespace(losses=list(ours.losses))
    for step in (1, 2):
        ours.optimizer.step()
        result.losses.append(training_step(ours, release, step)[1])
    ours.optimizer.step()
    ours.model.eval()
    with torch.no_grad():
        result.embedding_after = ours.model.embed(ours.clips, ours.camids)
    return result


def assert_near(actual, expected, steps=0):
    """After this many training steps, each of which takes the layers forwards and backwards."""
    assert_close(actual.detach().numpy(), expected, LONGEST_SUM, LAYERS * (1 + 3 * steps))


def test_encoder_and_tmd_tokens(ours, release):
    assert_near(ours.tokens[0], release["encoder_tokens_clip0"])
    assert_near(ours.projected[0], release["encoder_proj_clip0"])
    assert_near(ours.tmd_tokens[0], release["tmd_tokens_clip0"])


def test_retrieval_and_memory_features(ours, release):
    assert_near(ours.embedding, release["eval_feat"])
    assert_near(ours.memory_feature, release["memory_feat"])


def test_training_forward(ours, release):
    output = ours.output
    for name, feature in zip(("feat_global", "feat_proj", "feat_temporal"), output.features):
        assert_near(feature, release[name])
    for name, scores in zip(("score_global", "score_proj", "score_temporal"), output.scores):
        assert_near(scores, release[name])
    assert_near(output.frame_scores, release["score_frame"])
    assert_near(output.v2m_logits, release["v2m_logits"])


def assert_loss_terms(all_losses, release):
    for step, losses in enumerate(all_losses):
        expected = {
            "id": release["traj_id"][step].sum(),
            "triplet": release["traj_triplet"][step].sum(),
            "v2m": release["traj_v2m"][step],
            "frame_id": release["traj_frame"][step],
            "total": release["traj_total"][step],
        }
        for name, value in expected.items():
            assert losses[name] == approx(value, LONGEST_SUM, LAYERS * (1 + 3 * step)), (step, name)


def test_loss_terms_of_the_first_step(ours, release):
    assert_loss_terms(ours.losses, release)


@pytest.mark.slow
def test_loss_terms_of_three_steps(ours_after_three_steps, release):
    assert_loss_terms(ours_after_three_steps.losses, release)
    assert len(ours_after_three_steps.losses) == 3


def test_gradient_norm_of_every_published_parameter(ours, release):
    compared = 0
    for theirs, expected in zip(release["grad_names"].tolist(), release["grad_norm"]):
        name = ours.report.renamed.get(theirs)
        if name is None:
            assert theirs in ours.report.dropped and np.isnan(expected)
        elif np.isnan(expected):
            assert ours.gradients[name] is None, theirs
        else:
            # A bias before a layer norm has a gradient of zero up to rounding.
            scale = max(expected, 1e-3 * np.nanmax(release["grad_norm"]))
            assert ours.gradients[name] == approx(expected, LONGEST_SUM, LAYERS * 3, scale=scale), theirs
            compared += 1
    assert compared == 234


@pytest.mark.slow
def test_features_after_three_steps(ours_after_three_steps, release):
    assert_near(ours_after_three_steps.embedding_after, release["eval_feat_after"], steps=3)
    moved = np.abs(release["eval_feat_after"] - release["eval_feat"]).max()
    assert moved > 1e-2  # so the comparison above sees the optimiser

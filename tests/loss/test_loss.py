"""Each loss term against plain Python loops."""

import math

import pytest
import torch

from configs import load_cfg
from loss import build_criterion
from loss.criterion import Criterion
from loss.triplet import batch_hard_triplet
from model.output import TFCLIPOutput
from tests.tolerance import approx

PIDS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])


def random_output(num_frames=3, num_classes=5):
    torch.manual_seed(0)
    scores = tuple(torch.randn(8, num_classes) for _ in range(3))
    features = (torch.randn(8, 6), torch.randn(8, 4), torch.randn(8, 6))
    return TFCLIPOutput(scores, torch.randn(8 * num_frames, num_classes), features, torch.randn(8, num_classes))


def smoothed_cross_entropy(scores, labels, smoothing=0.1):
    total, num_classes = 0.0, scores.shape[1]
    for row, label in zip(scores.tolist(), labels.tolist()):
        norm = math.log(sum(math.exp(s) for s in row))
        for c, s in enumerate(row):
            target = smoothing / num_classes + (1 - smoothing) * (c == label)
            total -= target * (s - norm)
    return total / len(labels)


def hard_triplet(features, labels, margin=0.3):
    rows, labels, total = features.tolist(), labels.tolist(), 0.0
    for i, anchor in enumerate(rows):
        distances = [math.sqrt(max(sum((a - b) ** 2 for a, b in zip(anchor, other)), 1e-12)) for other in rows]
        positive = max(d for d, label in zip(distances, labels) if label == labels[i])
        negative = min(d for d, label in zip(distances, labels) if label != labels[i])
        total += max(0.0, margin + positive - negative)
    return total / len(rows)


def test_terms_and_total_against_loops():
    output = random_output()
    losses = Criterion()(output, PIDS)
    frame_pids = torch.tensor([pid for pid in PIDS.tolist() for _ in range(3)])
    expected = {
        "id": sum(smoothed_cross_entropy(s, PIDS) for s in output.scores),
        "triplet": sum(hard_triplet(f, PIDS) for f in output.features),
        "v2m": smoothed_cross_entropy(output.v2m_logits, PIDS),
        "frame_id": smoothed_cross_entropy(output.frame_scores, frame_pids),
    }
    expected["total"] = 0.25 * expected["id"] + expected["triplet"] + expected["v2m"] + expected["frame_id"] / 3
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name


def test_config_keys_reach_the_criterion():
    options = {
        "MODEL.ID_LOSS_WEIGHT": "0.5", "MODEL.TRIPLET_LOSS_WEIGHT": "2", "MODEL.V2M_LOSS_WEIGHT": "3",
        "SOLVER.MARGIN": "0.7", "MODEL.IF_LABELSMOOTH": "False",
    }  # fmt: skip
    cfg = load_cfg(opts=[part for pair in options.items() for part in pair])
    output = random_output()
    losses = build_criterion(cfg)(output, PIDS)
    assert losses["triplet"].item() == pytest.approx(sum(hard_triplet(f, PIDS, 0.7) for f in output.features), rel=1e-4)
    # IF_LABELSMOOTH False unsmooths every cross-entropy, the frame term too.
    frame_id = smoothed_cross_entropy(output.frame_scores, PIDS.repeat_interleave(3), smoothing=0)
    identity = sum(smoothed_cross_entropy(scores, PIDS, smoothing=0) for scores in output.scores)
    assert losses["frame_id"].item() == pytest.approx(frame_id, rel=1e-4)
    assert losses["id"].item() == pytest.approx(identity, rel=1e-4)
    total = 0.5 * losses["id"] + 2 * losses["triplet"] + 3 * losses["v2m"] + losses["frame_id"] / 3
    assert losses["total"].item() == approx(total.item(), terms=4)


def test_a_feature_without_scores_has_a_triplet_term_and_no_cross_entropy():
    """Points 0, 1 (person a) and 3, 7 (person b) as the fourth feature: a term of 2.3 / 4, as worked below."""
    three = random_output()
    pids, points = torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    few = TFCLIPOutput(tuple(s[:4] for s in three.scores), None, tuple(f[:4] for f in three.features), None)
    before = Criterion(triplet_weight=2.0)(few, pids)
    after = Criterion(triplet_weight=2.0)(TFCLIPOutput(few.scores, None, (*few.features, points), None), pids)
    assert after["triplet"].item() == approx(before["triplet"].item() + 2.3 / 4, terms=8)
    assert after["total"].item() == approx(before["total"].item() + 2.3 / 2, terms=8)
    assert torch.equal(after["id"], before["id"])


def test_triplet_on_a_line_worked_by_hand():
    """Points 0, 1 (person a) and 3, 7 (person b): hardest positives 1, 1, 4, 4; hardest negatives 3, 2, 2, 6."""
    features, pids = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    expected = (0 + 0 + (0.3 + 4 - 2) + 0) / 4
    assert batch_hard_triplet(features, pids, 0.3).item() == approx(expected, terms=4)


def test_triplet_of_equal_features_has_finite_gradients():
    features = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), 0.3)
    loss.backward()
    assert loss.item() == approx(0.3, terms=4) and torch.isfinite(features.grad).all()


def test_triplet_is_computed_in_float32():
    features = (1000 + torch.arange(4.0)[:, None] * torch.ones(4, 8)).to(torch.bfloat16)
    loss = batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), 0.3)
    assert loss.dtype is torch.float32
    assert loss.item() == approx(hard_triplet(features.float(), torch.tensor([0, 0, 1, 1])), terms=8)


def test_cross_entropies_are_computed_in_float32():
    exact = random_output()
    halves = TFCLIPOutput(
        tuple((3 * s).bfloat16() for s in exact.scores), (3 * exact.frame_scores).bfloat16(), exact.features, None
    )
    floats = TFCLIPOutput(tuple(s.float() for s in halves.scores), halves.frame_scores.float(), exact.features, None)
    pids = torch.arange(len(exact.features[0])) % 2
    half, full = Criterion()(halves, pids), Criterion()(floats, pids)
    assert all(half[name].dtype is torch.float32 and torch.equal(half[name], full[name]) for name in half)


def test_without_memory_frame_features_and_v_t_their_terms_are_absent():
    whole = random_output()
    pids = torch.arange(len(whole.features[0])) % 2
    output = TFCLIPOutput(whole.scores[:2], None, whole.features[:2], None)
    losses = Criterion(id_weight=2.0, triplet_weight=3.0)(output, pids)
    identity = sum(smoothed_cross_entropy(scores, pids) for scores in output.scores)
    triplet = sum(hard_triplet(feature, pids) for feature in output.features)
    assert losses["frame_id"] == losses["v2m"] == 0
    torch.testing.assert_close(losses["total"].item(), float(2 * identity + 3 * triplet), rtol=1e-4, atol=1e-5)

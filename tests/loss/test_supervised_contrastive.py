"""The supervised contrastive loss against plain Python loops."""

import math

import pytest
import torch

from loss.supervised_contrastive import supervised_contrastive


def by_loops(anchors, anchor_pids, others, other_pids):
    total = 0.0
    for anchor, pid in zip(anchors, anchor_pids):
        products = [sum(anchor * other) for other in others]
        norm = sum(product.exp() for product in products).log()
        positives = [product - norm for product, other_pid in zip(products, other_pids) if other_pid == pid]
        total -= sum(positives) / len(positives)
    return total / len(anchors)


def random_features(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    anchor_pids, other_pids = torch.tensor([0, 1, 1, 2]), torch.tensor([2, 1, 0, 0, 1, 1, 2])
    return torch.randn(4, 5, dtype=dtype), anchor_pids, torch.randn(7, 5, dtype=dtype), other_pids


@pytest.mark.parametrize("direction", [1, -1])
def test_value_and_gradients_against_loops(direction):
    """The two directions have different values."""
    anchors, anchor_pids, others, other_pids = random_features()
    anchors.requires_grad_(), others.requires_grad_()
    arguments = [(anchors, anchor_pids), (others, other_pids)][::direction]
    loss, expected = supervised_contrastive(*arguments[0], *arguments[1]), by_loops(*arguments[0], *arguments[1])
    assert loss.shape == () and loss.dtype is torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = (torch.autograd.grad(value, [anchors, others]) for value in (loss, expected))
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_two_identities_worked_by_hand():
    """Anchor (1, 0) of person 0; others ln 3 and 0 along it, of persons 0 and 1: its share is 3 / (3 + 1)."""
    others = torch.tensor([[math.log(3), 5.0], [0.0, -7.0]])
    loss = supervised_contrastive(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), others, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(math.log(4 / 3), rel=1e-5)


def test_large_products_stay_finite_and_features_are_not_normalised():
    anchors, anchor_pids, others, other_pids = random_features(dtype=torch.float32)
    loss = supervised_contrastive(1000 * anchors, anchor_pids, others, other_pids)
    assert torch.isfinite(loss) and loss.item() > 10 * supervised_contrastive(anchors, anchor_pids, others, other_pids)


def test_products_are_float32_under_autocast():
    anchors, anchor_pids, others, other_pids = random_features(dtype=torch.float32)
    plain = supervised_contrastive(10 * anchors, anchor_pids, others, other_pids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = supervised_contrastive(10 * anchors, anchor_pids, others, other_pids)
    assert under_autocast.dtype is torch.float32 and torch.equal(under_autocast, plain)


def test_an_anchor_without_positive_gives_nan():
    features = torch.ones(1, 2)
    assert supervised_contrastive(features, torch.tensor([0]), features, torch.tensor([1])).isnan()

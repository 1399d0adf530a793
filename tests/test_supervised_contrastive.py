"""The supervised contrastive loss against plain Python loops."""

import math

import pytest
import torch

from loss.supervised_contrastive import supervised_contrastive
from tests.tolerance import approx


def by_loops(anchors, anchor_pids, others, other_pids):
    total = 0.0
    for anchor, pid in zip(anchors.tolist(), anchor_pids.tolist()):
        products = [sum(a * o for a, o in zip(anchor, other)) for other in others.tolist()]
        norm = math.log(sum(math.exp(product) for product in products))
        positives = [product - norm for product, other_pid in zip(products, other_pids.tolist()) if other_pid == pid]
        total -= sum(positives) / len(positives)
    return total / len(anchors)


def random_features(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    anchor_pids, other_pids = torch.tensor([0, 1, 1, 2]), torch.tensor([2, 1, 0, 0, 1, 1, 2])
    return torch.randn(4, 5, dtype=dtype), anchor_pids, torch.randn(7, 5, dtype=dtype), other_pids


def test_value_against_loops():
    arguments = random_features()
    loss = supervised_contrastive(*arguments)
    assert loss.shape == () and loss.dtype is torch.float32
    assert loss.item() == pytest.approx(by_loops(*arguments), rel=1e-5)


def test_two_identities_worked_by_hand():
    """Anchor (1, 0) of person 0; others ln 3 and 0 along it, of persons 0 and 1: its share is 3 / (3 + 1)."""
    others = torch.tensor([[math.log(3), 5.0], [0.0, -7.0]])
    loss = supervised_contrastive(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), others, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(math.log(4 / 3), rel=1e-5)


def test_the_two_directions_differ():
    anchors, anchor_pids, others, other_pids = random_features()
    there, back = (anchors, anchor_pids, others, other_pids), (others, other_pids, anchors, anchor_pids)
    assert supervised_contrastive(*there).item() != pytest.approx(supervised_contrastive(*back).item(), rel=1e-2)
    assert supervised_contrastive(*back).item() == pytest.approx(by_loops(*back), rel=1e-5)


@pytest.mark.parametrize("side", [0, 2])
def test_gradient_against_differences(side):
    arguments = list(random_features(dtype=torch.float32))
    features = arguments[side] = arguments[side].requires_grad_()
    supervised_contrastive(*arguments).backward()
    step = 1e-3
    for index in [(0, 0), (1, 3), (3, 4)]:
        values = []
        for sign in (1, -1):
            moved = [a.detach().double() if a.is_floating_point() else a for a in arguments]
            moved[side] = moved[side].clone()
            moved[side][index] += sign * step
            values.append(by_loops(*moved))
        expected = (values[0] - values[1]) / (2 * step)
        assert features.grad[index].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_order_does_not_matter():
    anchors, anchor_pids, others, other_pids = random_features()
    order, other_order = torch.tensor([3, 1, 0, 2]), torch.tensor([6, 0, 3, 1, 5, 2, 4])
    shuffled = supervised_contrastive(anchors[order], anchor_pids[order], others[other_order], other_pids[other_order])
    straight = supervised_contrastive(anchors, anchor_pids, others, other_pids)
    assert shuffled.item() == approx(straight.item(), terms=5 * 7)


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

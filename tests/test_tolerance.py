"""The tolerance lets another order of a sum pass and finds a lost term."""

import numpy as np
import pytest
import torch

from tests.tolerance import allowed, approx, assert_close

LENGTHS = [16, 256, 4096]


def factors(terms: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(terms)
    a, b = (torch.randn(8, terms, generator=generator, dtype=torch.float64) for _ in range(2))
    return a.to(dtype), b.to(dtype)


def one_by_one(products: torch.Tensor) -> torch.Tensor:
    """Sums of the rows, rounded after every addition: the worst order."""
    total = torch.zeros_like(products[:, 0])
    for column in products.T:
        total = total + column
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("terms", LENGTHS)
def test_another_order_passes(terms, dtype):
    a, b = factors(terms, dtype)
    products = a * b
    exact = products.double().sum(dim=1)
    assert_close(one_by_one(products).double(), exact, terms, dtype=dtype)
    assert_close(one_by_one(products.flip(1)).double(), exact, terms, dtype=dtype)


@pytest.mark.parametrize("terms", LENGTHS)
def test_a_lost_term_fails(terms):
    a, b = factors(terms)
    with pytest.raises(AssertionError):
        assert_close((a[:, 1:] * b[:, 1:]).sum(dim=1), (a * b).sum(dim=1), terms)
    assert float((a[0, 1:] * b[0, 1:]).sum()) != approx(float((a[0] * b[0]).sum()), terms)


def test_other_layouts_and_shapes_of_a_product_pass_and_another_axis_fails():
    torch.manual_seed(0)
    x, weight = torch.randn(64, 64), torch.randn(64, 64)
    whole = x @ weight
    assert_close(torch.cat([row[None] @ weight for row in x]), whole, terms=64)
    assert_close((weight.T.contiguous() @ x.T).T, whole, terms=64)
    assert_close(x.numpy() @ np.asfortranarray(weight.numpy()), whole.numpy(), terms=64)
    with pytest.raises(AssertionError):
        assert_close(x @ weight.T, whole, terms=64)


def test_the_rule_by_hand():
    assert allowed(scale=2, terms=9, passes=4) == 4 * 2**-23 * 6 * 2
    assert allowed(scale=1, terms=1, dtype=torch.bfloat16) == 1 / 32
    edge = 4 * 2**-23 * 4 * 3
    assert 3 + 0.99 * edge == approx(3, terms=16) and 3 + 1.01 * edge != approx(3, terms=16)


def test_types_and_shapes_must_agree():
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(torch.ones(2), torch.ones(2, dtype=torch.float64), terms=1)
    with pytest.raises(AssertionError, match="shape"):
        assert_close(torch.ones(2), torch.ones(1, 2), terms=1)
    assert_close(np.ones(2), np.ones(2, np.float32), terms=1)

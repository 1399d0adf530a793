"""How far two computations of the same numbers may lie apart, on any CPU.

A sum of floats depends on its order, and the order is chosen by the library: it differs between processors, numbers of
threads, shapes and layouts of memory. Each addition rounds by at most the machine epsilon of its type. Roundings are as
often up as down, so they grow like the square root of their number: of the terms of a sum, and of the `passes` through
one such sum after the other (layers, blocks, training steps; a gradient passes the layers three times). So

    allowed difference = 4 * epsilon * sqrt(terms * passes) * scale,

where `terms` is the length of the longest sum and `scale` the largest absolute value of what is expected, or of what
was added up where larger terms cancel. The 4 stands for the sums, norms and residuals within one pass, and for layers
that enlarge what reaches them. Nothing here is taken from the last digits that some machine gave. A wrong formula, axis
or term is off by a share of the scale itself.

Exact comparison is for integers, bytes, copies, and the very same computation on the same shapes done twice.
"""

import math
import os

import pytest
import torch

_ROUNDINGS = 4  # of the size of epsilon
TINY_SUM = 4 * 64  # the longest sum of the models of tests/conftest.py: in the second layer of an MLP
TINY_LAYERS = 2 + 2 + 2  # of encoder, SSP and TMD
RN50_SUM, RN50_LAYERS = 9 * 512, 16 + 1  # convolutions of 3x3; bottlenecks and the attention pool

# ATEN_CPU_CAPABILITY holds torch's own kernels to older instructions; compiled code and bfloat16 attention ignore it.
any_instructions = pytest.mark.skipif(
    "ATEN_CPU_CAPABILITY" in os.environ, reason="ATEN_CPU_CAPABILITY holds only part of the kernels to older ones"
)


def allowed(scale: float, terms: int, passes: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """The largest difference that rounding explains: see the rule above."""
    return _ROUNDINGS * torch.finfo(dtype).eps * math.sqrt(terms * passes) * scale


def assert_close(actual, expected, terms: int, passes: int = 1, dtype=torch.float32, scale: float | None = None):
    """Tensors or arrays of the same shape (two tensors: of the same type), equal but for rounding."""
    both_tensors = torch.is_tensor(actual) and torch.is_tensor(expected)
    actual, expected = torch.as_tensor(actual).detach(), torch.as_tensor(expected).detach()
    scale = largest(expected) if scale is None else scale
    atol = allowed(scale, terms, passes, dtype)
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, check_dtype=both_tensors)


def approx(expected: float, terms: int, passes: int = 1, dtype=torch.float32, scale: float | None = None):
    """A number to compare with by `==`, equal but for rounding."""
    return pytest.approx(expected, rel=0, abs=allowed(abs(expected) if scale is None else scale, terms, passes, dtype))


def largest(values) -> float:
    """The largest absolute value of a tensor or array."""
    return float(torch.as_tensor(values).detach().abs().max())

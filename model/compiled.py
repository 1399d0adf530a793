"""torch.compile for the training pass of the network; tests and the memory pass are not compiled."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.tfclip import TFCLIP, ClipFeatures
from utils.errors import InputError

# Random numbers are drawn as without compiling, so that dropout has the same masks either way.
_OPTIONS = {"fallback_random": True}


def compile_clip_features(model: TFCLIP) -> Callable[[Tensor, Tensor | None, Tensor | None], ClipFeatures]:
    """`model.clip_features` (clips (B, T, 3, H, W), camids (B,), memory (C, E)) compiled for batches of one shape.

    Other shapes are compiled anew. The model and the names of its weights do not change. The first call raises what the
    compiler raises; see `check_compiler`.
    """
    return torch.compile(model.clip_features, dynamic=False, options=_OPTIONS)


def check_compiler(device: torch.device) -> None:
    """Compile a small function on `device`; raises InputError when torch has no compiler to do it with."""
    double = torch.compile(lambda x: x * 2 + 1, options=_OPTIONS)
    try:
        double(torch.zeros(8, device=device))
    except Exception as error:  # torch raises many kinds, from a missing g++ to missing headers of Python
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"SOLVER.COMPILE True: torch cannot compile on {device.type} here ({type(error).__name__}: {reason}); "
            "install what it names, or set SOLVER.COMPILE False"
        ) from None

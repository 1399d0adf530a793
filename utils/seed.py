"""What makes a run repeatable: the random state of a process, and algorithms that give the same bits again."""

import logging
import os
import random

import numpy as np
import torch

from utils.errors import InputError

logger = logging.getLogger(__name__)

# Workspaces with which cuBLAS adds in the same order every time; it reads the variable at the first matrix product.
_CUBLAS_KEY, _CUBLAS_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
_STRIDE = 0x9E3779B97F4A7C15  # between the seeds of two ranks; odd, so that all are different


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices); every rank draws other numbers."""
    seed = (seed + rank * _STRIDE) % 2**64
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_deterministic(enabled: bool) -> None:
    """SOLVER.DETERMINISTIC: with `enabled` one machine computes the same bits from the same numbers, on a GPU too.

    To be called before the first matrix product. An operation without a deterministic form then raises RuntimeError;
    the network and its losses have none. Raises InputError where the environment forbids it.
    """
    if not enabled:
        torch.use_deterministic_algorithms(False)
        return
    workspace = os.environ.setdefault(_CUBLAS_KEY, _CUBLAS_WORKSPACES[0])
    if workspace not in _CUBLAS_WORKSPACES:
        raise InputError(
            f"SOLVER.DETERMINISTIC True: the environment has {_CUBLAS_KEY}='{workspace}', with which cuBLAS may add in "
            f"any order; unset it, or set {' or '.join(_CUBLAS_WORKSPACES)}"
        )
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it chooses by time, and algorithms round in their own ways
    torch.utils.deterministic.fill_uninitialized_memory = False  # takes time, and nothing reads such memory
    logger.info("deterministic: the same seed gives the same weights on this machine (SOLVER.DETERMINISTIC)")


def get_rng_state() -> dict:
    """The states as tensors and plain Python, fit for a checkpoint read with weights_only."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict) -> None:
    """Restore what `get_rng_state` returned, and that of the GPU where both processes have one."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:  # earlier versions kept the states of all GPUs
        gpu = torch.cuda.current_device() if len(state["cuda"]) == torch.cuda.device_count() else 0
        torch.cuda.set_rng_state(state["cuda"][gpu])

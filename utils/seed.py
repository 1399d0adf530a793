"""Random state of a process: one place to set, save and restore it."""

import random

import numpy as np
import torch

_STRIDE = 0x9E3779B97F4A7C15  # between the seeds of two ranks; odd, so that all are different


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices); every rank draws other numbers."""
    seed = (seed + rank * _STRIDE) % 2**64
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


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

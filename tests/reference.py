"""Deterministic weights and inputs behind tests/data/release_small.npz.

The numbers there were computed by the authors' public release on a CPU in float32, dropout off, at 64x32 pixels, T = 4,
11 identities, 6 cameras. Every tensor is drawn from a generator seeded by its own published name.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"

# Width of a published file -> of the narrow model: encoder 768 -> 128 (two heads), joint space 512 -> 64 (one head).
NARROW = {768: 128, 3 * 768: 3 * 128, 4 * 768: 4 * 128, 512: 64, 4 * 512: 4 * 64}
NARROW_OPTIONS = "MODEL.ENCODER.WIDTH 128 MODEL.ENCODER.DEPTH 12 MODEL.ENCODER.HEADS 2 MODEL.ENCODER.EMBED 64".split()


def inputs(tag: str, shape: tuple[int, ...]) -> Tensor:
    """float32 standard normal values, seeded by `tag`."""
    return torch.from_numpy(_normal(tag, shape))


def published_state(
    num_classes: int, num_cameras: int, height: int, width: int, names: str = "names_full.json", narrow: bool = False
) -> dict[str, Tensor]:
    """{published name: tensor} as a published weight file would hold it at this size (patch and stride 16).

    With `narrow` for a model of NARROW_OPTIONS: the same names, every width by the table NARROW.
    """
    shapes = json.loads((DATA / names).read_text())
    sizes = {"cv_embed": num_cameras, "positional_embedding": 1 + (height // 16) * (width // 16)}
    state = {}
    for name, shape in shapes.items():
        leaf = name.split(".")[-1]
        first = num_classes if "classifier" in name else sizes.get(leaf)
        shape = [NARROW.get(size, size) for size in shape] if narrow else shape
        shape = tuple(shape) if first is None else (first, *shape[1:])
        state[name] = torch.from_numpy(np.array(_value(name, shape), np.float32 if shape else np.int64))
    return state


def _normal(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(tag.encode())).standard_normal(shape, dtype=np.float32)


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Scale of each kind of weight: statistics, biases, norms, embeddings, classifiers, matrices."""
    leaf = name.split(".")[-1]
    if leaf == "num_batches_tracked":
        return np.array(0)
    x = _normal(name, shape)
    if leaf == "running_var":
        return np.abs(x) * 0.1 + 1
    if leaf in ("running_mean", "alpha"):
        return x * 0.1
    if leaf == "weight" and len(shape) == 1:
        return 1 + x * 0.05
    small = leaf == "bias" or leaf.endswith(("_bias", "_embedding")) or "cv_embed" in name or "classifier" in name
    if small:
        return x * 0.02
    fan_in = shape[0] if name.endswith("image_encoder.proj") else int(np.prod(shape[1:]))
    return x * (0.7 / np.sqrt(fan_in))

"""The tracklet features that CLIP-Memory averages, kept on disk, so that the same pass is not made twice.

A file is found by a hash of everything the features depend on, and holds that description too: what does not carry the
very same words is never used.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.frames import FrameStore
from datasets.tracklet import ReIDSplits, below
from utils.errors import InputError
from utils.files import write_atomically

logger = logging.getLogger(__name__)

_NOT_KEPT = "tracklet features are not kept for the next run: %s; DATASETS.CACHE_DIR names another folder"
_FOLDER = "memory_features"
_FORMAT = 1  # of the file
_ROOT = Path(__file__).parents[2]
# Code that decides what the features are: who changes it wants new ones.
_CODE = (
    "model/**/*.py", "datasets/clips/*.py", "datasets/frames/*.py", "processor/training/memory.py",
    "processor/evaluation/tracklet_pass.py", "utils/group_means.py", "utils/precision.py",
)  # fmt: skip
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "simplejpeg")


def describe_frames(splits: ReIDSplits) -> str:
    """A hash of the training tracklets and of size and time of change of each of their images, or of their pack."""
    digest = blake2b(digest_size=16)
    if splits.pack:
        digest.update(f"pack {FrameStore(splits.pack).digest}\n".encode())
    for t in splits.train:
        digest.update(f"{t.pid}\n".encode())
        for frame in t.frames:
            state = b"" if splits.pack else _file_state(frame)
            digest.update(below(splits.root, frame).encode("utf-8", "surrogateescape") + b"\0" + state + b"\n")
    return digest.hexdigest()


def _file_state(path: str) -> bytes:
    try:
        state = os.stat(path)
    except OSError:  # the pass itself says what is wrong with it
        return b"missing"
    return b"%d %d" % (state.st_size, state.st_mtime_ns)


def describe_weights(encoder: nn.Module) -> str:
    """A hash of the names, shapes and values that the pass computes with: all but the camera embedding."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(encoder.state_dict().items()):
        if name != "camera_embed":
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe_code(root: Path = _ROOT) -> str:
    """A hash of the source files that the pass runs through."""
    digest = blake2b(digest_size=16)
    for path in sorted(path for pattern in _CODE for path in _matches(root, pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _matches(root: Path, pattern: str) -> list[Path]:
    """The files of a pattern; one that matches nothing names code that has moved."""
    found = list(root.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no source file matches {pattern} in {root}; mend the list of processor/training")
    return found


def describe_machine(device: torch.device) -> dict[str, str]:
    """Device and versions of the packages that decode and compute; they decide the last digits."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": f"{device.type} {name}"} | {package: version(package) for package in _PACKAGES}


def cached_features(
    cache_dir: Path, description: Mapping[str, Any], num_tracklets: int, compute: Callable[[], Tensor]
) -> Tensor:
    """Tracklet features (n, E) float32 on the CPU: from the cache, or from `compute`, which are then kept.

    `description` is plain data for JSON. A file that is damaged or describes something else is replaced; one that
    cannot be written is a warning.
    """
    text = json.dumps({"format": _FORMAT, **description}, sort_keys=True, indent=1)
    path = cache_dir / _FOLDER / f"{blake2b(text.encode(), digest_size=16).hexdigest()}.pt"
    features = _read(path, text, num_tracklets) if path.exists() else None
    if features is not None:
        logger.info("features of CLIP-Memory's tracklets taken from %s (same frames, weights, sizes, code)", path)
        return features
    features = compute().cpu()
    content = {"description": text, "features": features, "checksum": _checksum(features)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # so that a full disk is the system's own error
            torch.save(content, file)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except OSError as error:
        logger.warning(_NOT_KEPT, f"{path.parent} cannot be made ({error.strerror})")
    except InputError as error:
        logger.warning(_NOT_KEPT, error.line)
    return features


def _read(path: Path, text: str, num_tracklets: int) -> Tensor | None:
    """What the file holds, or None, with a warning, when it is not what `text` describes."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        features = content["features"]
        sound = content["description"] == text and content["checksum"] == _checksum(features)
    except Exception:  # torch.load raises many kinds for a broken file
        sound = False
    if not sound or len(features) != num_tracklets:
        logger.warning("%s is damaged or describes something else; it is made anew", path)
        return None
    return features


def _checksum(features: Tensor) -> str:
    return blake2b(features.contiguous().numpy().tobytes(), digest_size=16).hexdigest()

"""The features of the training tracklets, kept on disk for later runs.

A file is found by a hash of everything the features depend on. It also holds that description in full, and is used only
if the two are equal word for word.
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
from processor.distributed import ALONE, Ranks
from utils.errors import InputError
from utils.files import save_archive

logger = logging.getLogger(__name__)

_FOLDER = "memory_features"
_FORMAT = 1  # of the file
# Code that decides what the features are: after a change they are computed anew.
_CODE = (
    "model/**/*.py", "datasets/clips/*.py", "datasets/frames/*.py", "processor/training/memory.py",
    "processor/evaluation/tracklet_pass.py", "processor/runtime.py", "utils/group_means.py", "utils/precision.py",
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
    except OSError:  # reading the frame will say what is wrong
        return b"missing"
    return b"%d %d" % (state.st_size, state.st_mtime_ns)


def describe_weights(encoder: nn.Module) -> str:
    """A hash of names, shapes and values of all weights but the camera embedding, which the features do not see."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(encoder.state_dict().items()):
        if name != "camera_embed":
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe_code(root: Path = Path(__file__).parents[2]) -> str:
    """A hash of the source files that compute the features."""
    digest = blake2b(digest_size=16)
    for pattern in _CODE:
        if not any(root.glob(pattern)):
            raise FileNotFoundError(f"no source file matches {pattern} in {root}: correct _CODE in {__file__}")
    for path in sorted(path for pattern in _CODE for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def describe_machine(device: torch.device) -> dict[str, str]:
    """The device, the versions of the packages that decode and compute, and SOLVER.DETERMINISTIC where it is on: all of
    them decide the last digits.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    algorithms = {"algorithms": "deterministic"} if torch.are_deterministic_algorithms_enabled() else {}
    return {"device": f"{device.type} {name}"} | algorithms | {package: version(package) for package in _PACKAGES}


def cached_features(
    cache_dir: Path,
    description: Mapping[str, Any],
    num_tracklets: int,
    compute: Callable[[], Tensor],
    ranks: Ranks = ALONE,
    sound: Callable[[], bool] = lambda: True,
) -> Tensor:
    """Tracklet features (n, E) float32 on the CPU: from the cache, or from `compute`, whose result is then kept.

    `description` is plain data for JSON. A file that is damaged or describes something else is replaced; when the file
    cannot be written, a warning says so. `sound`, asked after `compute`, says whether its result may be kept. Rank 0
    reads and writes for all.
    """
    text = json.dumps({"format": _FORMAT, **description}, sort_keys=True, indent=1)
    path = cache_dir / _FOLDER / f"{blake2b(text.encode(), digest_size=16).hexdigest()}.pt"
    features = ranks.on_main(lambda: _read(path, text, num_tracklets) if path.exists() else None)
    if features is not None:
        logger.info("tracklet features taken from %s (same frames, weights, sizes, code)", path)
        return features
    features = compute().cpu()
    if not sound():
        logger.info("tracklet features are not kept: frames that cannot be read were replaced")
    elif ranks.is_main:
        _keep(path, text, features)
    return features


def _keep(path: Path, text: str, features: Tensor) -> None:
    content = {"description": text, "features": features, "checksum": _checksum(features)}

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_archive(path, content)
    except (OSError, InputError) as error:
        logger.warning("tracklet features are not kept: %s; DATASETS.CACHE_DIR names another folder", error)


def _read(path: Path, text: str, num_tracklets: int) -> Tensor | None:
    """The features in the file; None, with a warning, when they are not those that `text` describes."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        features = content["features"]
        sound = content["description"] == text and content["checksum"] == _checksum(features)
    except Exception:  # torch.load raises many kinds for a broken file
        sound = False
    if not sound or len(features) != num_tracklets:
        logger.warning("%s is damaged or describes something else; its features are computed anew", path)
        return None
    return features


def _checksum(features: Tensor) -> str:
    return blake2b(features.contiguous().numpy().tobytes(), digest_size=16).hexdigest()

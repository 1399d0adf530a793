"""What a user of an exported file has to know, as the metadata that travels in it.

Names and values are text, since ONNX has no other metadata; what is a list or a table there is JSON.
"""

import json
from collections.abc import Mapping, Sequence

import torch

from utils.environment import current_commit

_SAMPLINGS = {
    "dense": "cut the frames, in the order of time, into consecutive clips of clip_length frames; a last clip with "
    "fewer cycles its own frames",
    "first": "one clip: cut the n frames, in the order of time, into clip_length chunks of ceil(n / clip_length) and "
    "take the first of each; the last frame stands for chunks past the end",
}
_RESIZE = "bilinear with anti-aliasing, without keeping the aspect ratio, on RGB of 0 to 255 (torchvision's resize)"
_INPUTS = (
    "frames: uint8 (clips, frames per clip, height, width, RGB), the clips of all tracklets one after the other; "
    "num_clips: int64 (tracklets), how many of the clips belong to each; features are nan unless they add up to clips"
)
_CAMERAS = "; cameras: int64 (tracklets), a number of `cameras`, or unknown_camera"


def network_facts(
    network: str, size: Sequence[int], mean: Sequence[float], std: Sequence[float], clip_length: int, any_length: bool
) -> dict[str, str]:
    """What the frames have to look like; `network` is MODEL.NAME and MODEL.TEMPORAL, `size` [H, W] in pixels."""
    return {
        "network": network,
        "frame_size": json.dumps(list(size)),  # height, width
        "resize": _RESIZE,
        "normalisation": "within the file: (frames / 255 - pixel_mean) / pixel_std per colour",
        "pixel_mean": json.dumps(list(mean)),
        "pixel_std": json.dumps(list(std)),
        "clip_length": str(clip_length),
        "other_clip_lengths": "accepted" if any_length else "refused",
    }


def tracklet_facts(
    sampling: str, cameras: Mapping[str, int], unknown_camera: int, features: str, num_features: int, unit_length: bool
) -> dict[str, str]:
    """Inputs and output; `sampling` is TEST.SAMPLING, `features` TEST.NECK_FEAT, `cameras` {name: number}.

    Without `cameras` the file takes none.
    """
    facts = {
        "inputs": _INPUTS + (_CAMERAS if cameras else ""),
        "output": "features: float32 (tracklets, feature_length), the mean over the clips of each"
        + (", of unit length" if unit_length else ""),
        "feature_length": str(num_features),
        "features": f"{features} the necks",
        "unit_length": json.dumps(unit_length),
        "sampling": _SAMPLINGS[sampling],
    }
    if cameras:
        facts |= {"cameras": json.dumps(cameras), "unknown_camera": str(unknown_camera)}
    return facts


def origin_facts(weight_file: str, weight_sha256: str, half: bool) -> dict[str, str]:
    """Where the file comes from: name and checksum of the weights, number type, versions."""
    return {
        "precision": "float16" if half else "float32",
        "weight_file": weight_file,
        "weight_sha256": weight_sha256,
        "project": f"TF-CLIP, commit {current_commit()}",
        "torch": torch.__version__,
    }

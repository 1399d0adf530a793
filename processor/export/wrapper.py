"""From uint8 frames to the feature of a tracklet in one module, and its trace: what an exported file computes.

N clips, n tracklets, T frames per clip, H, W pixels, F feature length.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from model.tfclip import TFCLIP

AXES = {"frames": ("clips", "frames_per_clip"), "num_clips": ("tracklets",), "cameras": ("tracklets",)}  # of inputs
OUTPUT = "features"
ANY_LENGTH = ("TMD", "TAP", "CONV1D")  # temporal branches that take clips of any T; others only that of their training
_NECKS = ("neck_g", "neck_p", "neck_t")
_ONLY_IN_TRAINING = ("ssp", "classifier_g", "classifier_p", "classifier_t", "neck_f")


class TrackletFeatures(nn.Module):
    """The test of one batch of tracklets: normalise pixels, embed clips, average the clips of a tracklet, unit length.

    The clips of all tracklets lie one after the other, so that tracklets may have different numbers of them and none
    is computed that is not there.
    """

    def __init__(
        self, model: TFCLIP, normalize: nn.Module, takes_cameras: bool, unit_length: bool, half: bool = False
    ) -> None:
        """A copy of what `model.embed` needs of a model in eval mode, in float16 with `half`.

        Pixels, necks and the mean stay in float32. `normalize` makes floats of uint8 frames (..., 3, H, W).
        """
        super().__init__()
        left_out = {id(part): None for name in _ONLY_IN_TRAINING if (part := getattr(model, name)) is not None}
        self.model: TFCLIP = deepcopy(model, left_out).eval().requires_grad_(False)
        self.normalize = normalize
        self.takes_cameras = takes_cameras
        self.unit_length = unit_length
        self.dtype = torch.float16 if half else torch.float32
        if model.neck_feat == "before":
            for name in _NECKS:
                setattr(self.model, name, None)
        self.model.to(self.dtype)
        for neck in (getattr(self.model, name) for name in _NECKS):
            if neck is not None:
                neck.float()

    @property
    def num_layers(self) -> int:
        """How many modules with weights of their own the network has."""
        return sum(any(True for _ in module.parameters(recurse=False)) for module in self.model.modules())

    def forward(self, frames: Tensor, num_clips: Tensor, cameras: Tensor | None = None) -> Tensor:
        """RGB frames (N, T, H, W, 3) uint8, num_clips (n,) int64, cameras (n,) int64 -> features (n, F) float32.

        The first num_clips[0] clips belong to tracklet 0, and so on. All features are nan where num_clips does not add
        up to N, and that of a tracklet without clips is.
        """
        clips = self.normalize(frames.permute(0, 1, 4, 2, 3)).to(self.dtype)
        clip = torch.arange(frames.shape[0], device=frames.device)
        ends = num_clips.cumsum(0)
        camids = None
        if self.takes_cameras:
            tracklet = (clip[:, None] >= ends).sum(dim=1).clamp(max=num_clips.shape[0] - 1)  # (N,)
            camids = cameras[tracklet]
        features = self.model.embed(clips, camids).float()  # (N, F)
        belongs = (clip >= (ends - num_clips)[:, None]) & (clip < ends[:, None])  # (n, N)
        means = (belongs.float() @ features) / num_clips[:, None]
        means = torch.where(num_clips.sum() == frames.shape[0], means, torch.nan)
        return F.normalize(means, eps=1e-12) if self.unit_length else means


@torch.no_grad()
def trace(module: TrackletFeatures, size: Sequence[int], clip_length: int, any_length: bool) -> ExportedProgram:
    """The module as a graph for any N and n, frames of `size` [H, W], and any T or with `any_length` False this one.

    The graph names no files of this machine.
    """
    clips, tracklets = Dim("clips", min=1), Dim("tracklets", min=1)
    length = clip_length if not any_length else 3  # an example's T that is a dimension must not look like another one
    inputs = [torch.zeros(5, length, *size, 3, dtype=torch.uint8), torch.tensor([2, 3])]
    dynamic = [{0: clips} | ({1: Dim("length", min=1)} if any_length else {}), {0: tracklets}]
    if module.takes_cameras:
        inputs.append(torch.zeros(2, dtype=torch.int64))
        dynamic.append({0: tracklets})
    program = torch.export.export(module, tuple(inputs), dynamic_shapes=tuple(dynamic))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program

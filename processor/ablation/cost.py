"""What a model costs: parameters, and multiply-adds per frame, counted on the meta device without weights or data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.tfclip import TFCLIP

_CLIPS = 1  # a batch of one: what SSP computes once per batch counts in full, as in the release
_FLOPS_PER_MULTIPLY_ADD = 2  # torch counts both


@dataclass(frozen=True)
class Cost:
    """Parameters in millions, multiply-adds in billions per frame."""

    params: float
    training_flops: float  # training forward: linear layers and attention, and a CNN's convolutions; no patch embedding
    deployed_flops: float  # only the retrieval feature, everything counted


def count_cost(model: TFCLIP, image_size: Sequence[int], num_frames: int, memory: bool, text: nn.Module | None) -> Cost:
    """Cost of a model on the meta device, for clips of `num_frames` frames of `image_size` [height, width] pixels.

    `memory` says whether the training forward compares v_p with one vector per identity. `text`, a module that takes
    labels (n,) to text features, is counted with its parameters (without the token embedding, a table to look up) and
    with one text per frame, as the paper counts it.
    """
    clips = torch.empty(_CLIPS, num_frames, 3, *image_size, device="meta")
    camids = None if model.encoder.camera_embed is None else torch.zeros(_CLIPS, dtype=torch.long, device="meta")
    vectors_CE = torch.empty(model.num_classes, model.encoder.embed_width, device="meta") if memory else None
    frames = _CLIPS * num_frames
    model.eval()  # a BNNeck in training needs two clips, and computes as much
    training, patches = _multiply_adds(lambda: model(clips, camids, vectors_CE), "TFCLIP.encoder.vit.patch_embed")
    flops, params = (training - patches) / frames, _count(model)
    if text is not None:
        label = torch.zeros(1, dtype=torch.long, device="meta")
        flops += _multiply_adds(lambda: text(label))[0]
        params += _count(text, without="token_embedding")
    with torch.no_grad():
        deployed, _ = _multiply_adds(lambda: model.embed(clips, camids))
    return Cost(params / 1e6, flops / 1e9, deployed / frames / 1e9)


def _multiply_adds(run: Callable[[], Tensor], part: str = "") -> tuple[float, float]:
    """(all, those of the module `part`)."""
    with FlopCounterMode(display=False) as counter:
        run()
    of_part = counter.get_flop_counts().get(part, {})
    return counter.get_total_flops() / _FLOPS_PER_MULTIPLY_ADD, sum(of_part.values()) / _FLOPS_PER_MULTIPLY_ADD


def _count(module: nn.Module, without: str = "-") -> int:
    return sum(parameter.numel() for name, parameter in module.named_parameters() if without not in name)

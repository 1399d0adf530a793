"""Eq. 14: identity, triplet, video-to-memory and frame terms, and their weighted sum."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss.triplet import batch_hard_triplet
from model.output import TFCLIPOutput

LABEL_SMOOTHING = 0.1
# What a criterion returns, in the order of history.csv. Whatever shows or stores losses goes through this list.
LOSS_TERMS = (
    "id",  # cross-entropies of the clip's features, summed
    "triplet",  # batch-hard triplet terms of all features, summed
    "v2m",  # video to memory
    "frame_id",  # cross-entropy of the frame features
    "total",  # the weighted sum
)


class Criterion(nn.Module):
    """total = id_weight * id + triplet_weight * triplet + v2m_weight * v2m + (1/T) * frame_id."""

    def __init__(
        self,
        id_weight: float = 0.25,
        triplet_weight: float = 1.0,
        v2m_weight: float = 1.0,
        margin: float = 0.3,
        label_smoothing: float = LABEL_SMOOTHING,
    ) -> None:
        super().__init__()
        self.id_weight = id_weight
        self.triplet_weight = triplet_weight
        self.v2m_weight = v2m_weight
        self.margin = margin
        self.label_smoothing = label_smoothing

    def forward(self, output: TFCLIPOutput, pids: Tensor) -> dict[str, Tensor]:
        """Scalars of LOSS_TERMS of a batch with labels (B,).

        Every term is before weighting; `id` and `triplet` are sums over v_g, v_p and, where the model has it, v_t;
        `triplet` also over the class token before the last block. Without memory `v2m` is 0, without frame features
        `frame_id`.
        """
        identity = sum(self._cross_entropy(scores, pids) for scores in output.scores)
        triplet = sum(batch_hard_triplet(feature, pids, self.margin) for feature in output.features)
        v2m, frame_id, num_frames = torch.zeros_like(identity), torch.zeros_like(identity), 1
        if output.v2m_logits is not None:
            v2m = self._cross_entropy(output.v2m_logits, pids)
        if output.frame_scores is not None:
            num_frames = len(output.frame_scores) // len(pids)
            frame_id = self._cross_entropy(output.frame_scores, pids.repeat_interleave(num_frames))  # labels (B*T,)
        total = self.id_weight * identity + self.triplet_weight * triplet + self.v2m_weight * v2m
        total = total + frame_id / num_frames
        return {"id": identity, "triplet": triplet, "v2m": v2m, "frame_id": frame_id, "total": total}

    def _cross_entropy(self, scores: Tensor, pids: Tensor) -> Tensor:
        return F.cross_entropy(scores.float(), pids, label_smoothing=self.label_smoothing)

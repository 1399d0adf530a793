"""What a training forward returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TFCLIPOutput:
    """Scores and features of B clips, T frames, C identities, F channels, in the order v_g, v_p, v_t.

    Without a temporal branch (TAP) there is no v_t. The class token before the last block, where the model gives it, is
    the last of the features; it has no scores.
    """

    scores: tuple[Tensor, ...]  # (B, C) each, after neck and classifier
    frame_scores: Tensor | None  # (B*T, C), frames of a clip together; None where no branch has frame features
    features: tuple[Tensor, ...]  # (B, F) each, before the necks
    v2m_logits: Tensor | None  # (B, C), None without memory

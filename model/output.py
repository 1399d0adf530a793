"""What a training forward returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TFCLIPOutput:
    """Letters: B clips, T frames, C identities, D encoder width, E projection width; order v_g, v_p, v_t."""

    scores: tuple[Tensor, Tensor, Tensor]  # (B, C) each, after neck and classifier
    frame_scores: Tensor  # (B*T, C), frames of a clip together
    features: tuple[Tensor, Tensor, Tensor]  # (B, D), (B, E), (B, D), before the necks
    v2m_logits: Tensor | None  # (B, C), None without memory

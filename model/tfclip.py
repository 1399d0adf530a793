"""TF-CLIP (Figure 2): image encoder, CLIP-Memory updated by SSP, TMD, and their heads.

B clips, T frames, N tokens per frame, C identities, D encoder width, E projection width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.bnneck import BNNeck, build_classifier
from model.encoder import CLIPImageEncoder
from model.output import TFCLIPOutput
from model.sequence_prompt import SequenceSpecificPrompt
from model.temporal_memory import TemporalMemoryDiffusion


class VideoFeatures(NamedTuple):
    """What the heads and SSP read."""

    v_g: Tensor  # (B, D) mean class token
    v_p: Tensor  # (B, E) mean projected class token
    v_t: Tensor  # (B, D) mean frame feature of TMD
    frames_BTD: Tensor  # (B, T, D) frame features f_t of TMD
    context_BNE: Tensor  # (B, N, E) mean over frames of all projected tokens


class TFCLIP(nn.Module):
    """The method's network; CLIP-Memory itself is data and is passed to `forward`."""

    def __init__(
        self,
        encoder: CLIPImageEncoder,
        ssp: SequenceSpecificPrompt,
        tmd: TemporalMemoryDiffusion,
        num_classes: int,
        neck_feat: str = "before",
    ) -> None:
        super().__init__()
        if neck_feat not in ("before", "after"):
            raise ValueError(f"neck_feat must be before or after, found {neck_feat}")
        width, embed_width = encoder.width, encoder.embed_width
        self.neck_feat = neck_feat
        self.encoder = encoder
        self.ssp = ssp
        self.tmd = tmd
        self.neck_g = BNNeck(width)
        self.neck_p = BNNeck(embed_width)
        self.neck_t = BNNeck(width)
        self.neck_f = BNNeck(width)
        self.classifier_g = build_classifier(width, num_classes)
        self.classifier_p = build_classifier(embed_width, num_classes)
        self.classifier_t = build_classifier(width, num_classes)  # shared by v_t and the frame features

    @property
    def num_classes(self) -> int:
        """Training identities (C)."""
        return self.classifier_g.out_features

    def forward(self, clips: Tensor, camids: Tensor | None, memory: Tensor | None) -> TFCLIPOutput:
        """Training forward: clips (B, T, 3, H, W), camids (B,) or None, CLIP-Memory (C, E) or None."""
        video = self._video_features(clips, camids)
        v_g, v_p, v_t = video.v_g, video.v_p, video.v_t
        scores = (
            self.classifier_g(self.neck_g(v_g)),
            self.classifier_p(self.neck_p(v_p)),
            self.classifier_t(self.neck_t(v_t)),
        )
        frame_scores = self.classifier_t(self.neck_f(video.frames_BTD.flatten(0, 1)))
        v2m_logits = None if memory is None else self._v2m_logits(v_p, video.context_BNE, memory)
        return TFCLIPOutput(scores, frame_scores, (v_g, v_p, v_t), v2m_logits)

    def embed(self, clips: Tensor, camids: Tensor | None = None) -> Tensor:
        """Retrieval feature [v_g ; v_p ; v_t] of each clip, before (or after) the necks: (B, 2 D + E)."""
        video = self._video_features(clips, camids)
        features = (video.v_g, video.v_p, video.v_t)
        if self.neck_feat == "after":
            features = tuple(neck(v) for neck, v in zip((self.neck_g, self.neck_p, self.neck_t), features))
        return torch.cat(features, dim=1)

    def encode_memory(self, clips: Tensor) -> Tensor:
        """What CLIP-Memory averages: v_p of each clip, without camera embedding: (B, E) float32."""
        return self.encoder(clips).projected[:, :, 0].float().mean(dim=1)

    def _video_features(self, clips: Tensor, camids: Tensor | None) -> VideoFeatures:
        tokens_BTND, projected_BTNE = self.encoder(clips, camids)
        # The temporal branch reads the encoder but does not train it.
        frames_BTD = self.tmd(tokens_BTND.detach()).mean(dim=2)
        return VideoFeatures(
            v_g=tokens_BTND[:, :, 0].float().mean(dim=1),
            v_p=projected_BTNE[:, :, 0].float().mean(dim=1),
            v_t=frames_BTD.float().mean(dim=1),
            frames_BTD=frames_BTD,
            context_BNE=projected_BTNE.mean(dim=1),
        )

    def _v2m_logits(self, v_p: Tensor, context_BNE: Tensor, memory: Tensor) -> Tensor:
        """Plain dot products of v_p with the memory updated for each clip: (B, C)."""
        memory_BCE = memory.expand(len(v_p), -1, -1)
        updated_BCE = self.ssp(memory_BCE, context_BNE)
        # In float32: bfloat16 has steps of 0.5 at the size of these logits.
        return (v_p[:, None].float() * updated_BCE.float()).sum(dim=2)

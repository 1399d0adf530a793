"""TF-CLIP (Figure 2): image encoder, CLIP-Memory updated by SSP, TMD, and their heads.

B clips, T frames, N tokens per frame, C identities, D encoder width, E projection width, G width of v_g (D in a ViT).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.bnneck import BNNeck, build_classifier
from model.encoder import CLIPImageEncoder, ClipTokens
from model.output import TFCLIPOutput
from model.resnet_encoder import CLIPResNetEncoder
from model.sequence_prompt import SequenceSpecificPrompt
from model.temporal_memory import TemporalMemoryDiffusion


class ClipFeatures(NamedTuple):
    """What the network computes for each clip without the others of its batch: all before the necks."""

    v_g: Tensor  # (B, G) mean pooled feature: in a ViT the class token
    v_p: Tensor  # (B, E) mean projected class token
    v_t: Tensor | None  # feature of the temporal branch: (B, D) for TMD, (B, E) for a temporal head, None for TAP
    frames_BTD: Tensor | None  # (B, T, D) frame features f_t of TMD
    v2m_logits: Tensor | None  # (B, C) v_p compared with the memory, None without memory
    penultimate: Tensor | None = None  # (B, D) mean class token before the encoder's last block, None unless asked for


class TFCLIP(nn.Module):
    """The method's network; CLIP-Memory itself is data and is passed to `forward`.

    Without `ssp` v_p is compared with the memory itself. The temporal branch is `tmd`, or a `temporal_head` of
    model.temporal_heads on the projected class tokens, or absent (TAP).
    """

    def __init__(
        self,
        encoder: CLIPImageEncoder | CLIPResNetEncoder,
        ssp: SequenceSpecificPrompt | None,
        tmd: TemporalMemoryDiffusion | None,
        num_classes: int,
        neck_feat: str = "before",
        temporal_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if neck_feat not in ("before", "after"):
            raise ValueError(f"neck_feat must be before or after, found {neck_feat}")
        if tmd is not None and temporal_head is not None:
            raise ValueError("a model has one temporal branch: TMD or a temporal head")
        global_width, embed_width = encoder.pooled_width, encoder.embed_width
        self.num_classes = num_classes  # training identities (C)
        self.neck_feat = neck_feat
        self.encoder = encoder
        self.ssp = ssp
        self.tmd = tmd
        self.temporal_head = temporal_head
        self.neck_g = BNNeck(global_width)
        self.neck_p = BNNeck(embed_width)
        self.classifier_g = build_classifier(global_width, num_classes)
        self.classifier_p = build_classifier(embed_width, num_classes)
        self.neck_t = self.neck_f = self.classifier_t = None
        if tmd is not None:
            self.neck_t = BNNeck(encoder.width)
            self.neck_f = BNNeck(encoder.width)
            self.classifier_t = build_classifier(encoder.width, num_classes)  # shared by v_t and the frame features
        elif temporal_head is not None:
            self.neck_t = BNNeck(embed_width)
            self.classifier_t = build_classifier(embed_width, num_classes)

    def forward(self, clips: Tensor, camids: Tensor | None, memory: Tensor | None) -> TFCLIPOutput:
        """Training forward: clips (B, T, 3, H, W), camids (B,) or None, memory (C, E) or None."""
        return self.classify(self.clip_features(clips, camids, memory))

    def clip_features(self, clips: Tensor, camids: Tensor | None, memory: Tensor | None) -> ClipFeatures:
        """The first half of `forward`, clip by clip: encoder, temporal branch and SSP."""
        tokens = self.encoder(clips, camids)
        v_g, v_p, v_t, frames_BTD = self._pool(tokens)
        v2m_logits = None if memory is None else self._v2m_logits(v_p, tokens.projected, memory)
        penultimate = None if tokens.penultimate is None else tokens.penultimate.float().mean(dim=1)
        return ClipFeatures(v_g, v_p, v_t, frames_BTD, v2m_logits, penultimate)

    def classify(self, clips: ClipFeatures) -> TFCLIPOutput:
        """The second half of `forward`: necks, which take statistics of the whole batch, and classifiers."""
        scores = [self.classifier_g(self.neck_g(clips.v_g)), self.classifier_p(self.neck_p(clips.v_p))]
        if clips.v_t is not None:
            scores.append(self.classifier_t(self.neck_t(clips.v_t)))
        frame_scores = None
        if clips.frames_BTD is not None:
            frame_scores = self.classifier_t(self.neck_f(clips.frames_BTD.flatten(0, 1)))
        features = tuple(v for v in (clips.v_g, clips.v_p, clips.v_t, clips.penultimate) if v is not None)
        return TFCLIPOutput(tuple(scores), frame_scores, features, clips.v2m_logits)

    def embed(self, clips: Tensor, camids: Tensor | None = None) -> Tensor:
        """Retrieval feature of each clip, before (or after) the necks.

        [v_g ; v_p ; v_t] for a ViT: (B, 2 D + E); [v_p ; v_t] for a CNN; without v_t for TAP.
        """
        features = [v for v in self._pool(self.encoder(clips, camids))[:3] if v is not None]
        if self.neck_feat == "after":
            features = [neck(v) for neck, v in zip((self.neck_g, self.neck_p, self.neck_t), features)]
        return torch.cat(features[0 if self.encoder.pooled_in_retrieval else 1 :], dim=1)

    @property
    def num_features(self) -> int:
        """The width of what `embed` returns."""
        necks = [neck for neck in (self.neck_g, self.neck_p, self.neck_t) if neck is not None]
        return sum(neck.num_features for neck in necks[0 if self.encoder.pooled_in_retrieval else 1 :])

    def encode_memory(self, clips: Tensor) -> Tensor:
        """What CLIP-Memory averages: v_p of each clip, without camera embedding: (B, E) float32."""
        return self.encoder(clips).projected[:, :, 0].float().mean(dim=1)

    def _pool(self, tokens: ClipTokens) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Means over the frames: v_g (B, G), v_p (B, E), v_t or None, frame features (B, T, D) or None."""
        projected_cls_BTE = tokens.projected[:, :, 0]
        # The temporal branch reads the encoder but does not train it.
        frames_BTD = v_t = None
        if self.tmd is not None:
            frames_BTD = self.tmd(tokens.tokens.detach()).mean(dim=2)
            v_t = frames_BTD.float().mean(dim=1)
        elif self.temporal_head is not None:
            v_t = self.temporal_head(projected_cls_BTE.detach()).float()
        return tokens.pooled.float().mean(dim=1), projected_cls_BTE.float().mean(dim=1), v_t, frames_BTD

    def _v2m_logits(self, v_p: Tensor, projected_BTNE: Tensor, memory: Tensor) -> Tensor:
        """Plain dot products of v_p with the memory, updated for each clip where there is SSP: (B, C)."""
        memory_BCE = memory[None]  # (1, C, E), one for all clips
        if self.ssp is not None:
            memory_BCE = self.ssp(memory_BCE, projected_BTNE.mean(dim=1))  # (B, C, E), context (B, N, E)
        # In float32: bfloat16 has steps of 0.5 at the size of these logits.
        return (v_p[:, None].float() * memory_BCE.float()).sum(dim=2)

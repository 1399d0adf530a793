"""Supervised contrastive loss (Khosla et al., arXiv 2004.11362) between two kinds of features."""

import torch
from torch import Tensor


def supervised_contrastive(
    anchors_NE: Tensor, anchor_pids_N: Tensor, others_ME: Tensor, other_pids_M: Tensor
) -> Tensor:
    """-mean_i mean_{p: pid_p = pid_i} log( exp<a_i, o_p> / sum_j exp<a_i, o_j> ), a scalar in float32.

    Anchors (N, E) with labels (N,), others (M, E) with labels (M,). Plain dot products, not normalised, temperature 1,
    as in CLIP-ReID (arXiv 2211.13977). The result is nan when an anchor has no positive among the others.
    """
    # bfloat16 has steps of 0.5 at the size of these logits, so autocast is kept out.
    with torch.autocast(anchors_NE.device.type, enabled=False):
        log_shares_NM = (anchors_NE.float() @ others_ME.float().T).log_softmax(dim=1)
    positive_NM = anchor_pids_N[:, None] == other_pids_M[None, :]
    positive_means_N = (log_shares_NM * positive_NM).sum(dim=1) / positive_NM.sum(dim=1)
    return -positive_means_N.mean()

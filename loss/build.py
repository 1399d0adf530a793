"""Config -> criterion."""

from yacs.config import CfgNode

from loss.criterion import LABEL_SMOOTHING, Criterion


def build_criterion(cfg: CfgNode) -> Criterion:
    """The training criterion: criterion(output, pids) -> a scalar for each of LOSS_TERMS."""
    return Criterion(
        id_weight=cfg.MODEL.ID_LOSS_WEIGHT,
        triplet_weight=cfg.MODEL.TRIPLET_LOSS_WEIGHT,
        v2m_weight=cfg.MODEL.V2M_LOSS_WEIGHT,
        margin=cfg.SOLVER.MARGIN,
        label_smoothing=LABEL_SMOOTHING if cfg.MODEL.IF_LABELSMOOTH else 0.0,
    )

"""The rows of the paper's tables and supplement: the config of each, and the paper's figures to print beside ours.

Scores are (mAP, Rank-1, Rank-5) in percent, None where the paper gives none; parameters in millions, FLOPs in billions
of multiply-adds per frame of the training forward.
"""

from dataclasses import dataclass, field

Scores = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class PaperRow:
    """One row of a table of the paper."""

    table: str
    config: str  # configs/ablation/<config>.yml
    label: str
    scores: dict[str, Scores] = field(default_factory=dict)  # data set -> scores
    params: float | None = None
    flops: float | None = None


_CNN = "Table 1, CLIP RN50"
_PARTS = "Table 2, components"
_TMD = "Table 3, parts of TMD"
_TEMPORAL = "Table 5, temporal heads"
_LAYERS = "Table 6, layers of SSP"
_NO_MEMORY = "Table 7, without CLIP-Memory"
_IMAGES = "Image data sets, recipe of CLIP-ReID"


def _mars(mean_ap: float, rank1: float, rank5: float | None = None) -> dict[str, Scores]:
    return {"MARS": (mean_ap, rank1, rank5)}


def _both(mars: Scores, lsvid: Scores) -> dict[str, Scores]:
    return {"MARS": mars, "LS-VID": lsvid}


# fmt: off
PAPER_ROWS = (
    PaperRow(_CNN, "table1_cnn_baseline", "baseline", _mars(83.9, 89.0)),
    PaperRow(_CNN, "table1_cnn_tfclip", "TF-CLIP", _mars(86.3, 90.9)),
    PaperRow(_PARTS, "table2_row1", "1: text", _both((88.1, 91.7, 97.4), (80.6, 88.8, 96.3)), 126.78, 14.24),
    PaperRow(_PARTS, "table2_row2", "2: CLIP-M", _both((88.4, 91.6, 97.9), (80.3, 87.7, 95.7)), 86.94, 11.26),
    PaperRow(_PARTS, "table2_row3", "3: CLIP-M, SSP", _both((88.8, 92.1, 97.6), (81.3, 89.9, 96.2)), 94.21, 12.11),
    PaperRow(_PARTS, "table2_row4", "4: CLIP-M, TMD", _both((89.2, 92.3, 97.7), (81.6, 88.9, 96.4)), 97.02, 11.72),
    PaperRow(_PARTS, "table2_row5", "5: text, TMD", _both((89.3, 92.7, 97.8), (82.3, 90.3, 96.7)), 136.86, 14.70),
    PaperRow(_PARTS, "table2_row6", "6: all three", _both((89.4, 93.0, 97.9), (83.8, 90.4, 97.1)), 104.26, 12.53),
    PaperRow(_TMD, "table3_none", "none", _mars(88.4, 91.6), 86.94, 11.26),
    PaperRow(_TMD, "table3_tmc", "TMC", _mars(88.8, 91.9), 89.93, 11.26),
    PaperRow(_TMD, "table3_tmc_md", "TMC, MD", _mars(89.2, 92.3), 97.02, 11.72),
    PaperRow(_TMD, "table3_ssp", "SSP", _mars(88.8, 92.1), 94.21, 12.11),
    PaperRow(_TMD, "table3_tmc_ssp", "TMC, SSP", _mars(89.0, 92.5), 97.17, 12.11),
    PaperRow(_TMD, "table3_all", "TMC, MD, SSP", _mars(89.4, 93.0), 104.26, 12.53),
    PaperRow(_TEMPORAL, "table5_tap", "TAP", _mars(88.4, 91.6), 86.94, 11.26),
    # The paper has one Conv1D row; whether of the described or of the released computation is not known.
    PaperRow(_TEMPORAL, "table5_conv1d", "Conv1D", _mars(88.1, 91.8), 87.31, 11.26),
    PaperRow(_TEMPORAL, "table5_conv1d_view", "Conv1D, view", _mars(88.1, 91.8), 87.31, 11.26),
    PaperRow(_TEMPORAL, "table5_transf_cls", "Transf_cls", _mars(87.5, 91.5), 106.23, 11.41),
    PaperRow(_TEMPORAL, "table5_transf", "Transf", _mars(88.2, 91.4), 106.22, 11.39),
    PaperRow(_TEMPORAL, "table5_tmd", "TMD", _mars(89.2, 92.3), 97.02, 11.72),
    PaperRow(_LAYERS, "table6_layers1", "1 layer", _mars(88.5, 91.9), 91.06, 11.68),
    PaperRow(_LAYERS, "table6_layers2", "2 layers", _mars(88.8, 92.1), 94.21, 12.11),
    PaperRow(_LAYERS, "table6_layers3", "3 layers", _mars(87.4, 92.1), 97.36, 12.53),
    PaperRow(_LAYERS, "table6_layers4", "4 layers", _mars(88.4, 92.3), 100.51, 12.95),
    PaperRow(_NO_MEMORY, "table7_row2", "row 2 without CLIP-M", _mars(84.9, 90.2)),
    PaperRow(_NO_MEMORY, "table7_row4", "row 4 without CLIP-M", _mars(87.3, 91.0)),
    PaperRow(_IMAGES, "images_market1501_text", "Market1501: text (CLIP-ReID)", {"Market1501": (90.4, 95.5, None)}),
    PaperRow(_IMAGES, "images_market1501_clipm", "Market1501: CLIP-M", {"Market1501": (89.6, 95.0, None)}),
    PaperRow(_IMAGES, "images_market1501_clipm_ssp", "Market1501: CLIP-M, SSP", {"Market1501": (90.4, 95.7, None)}),
    PaperRow(_IMAGES, "images_msmt17_text", "MSMT17: text (CLIP-ReID)", {"MSMT17": (73.2, 88.0, None)}),
    PaperRow(_IMAGES, "images_msmt17_clipm", "MSMT17: CLIP-M", {"MSMT17": (72.0, 87.4, None)}),
    PaperRow(_IMAGES, "images_msmt17_clipm_ssp", "MSMT17: CLIP-M, SSP", {"MSMT17": (73.9, 88.5, None)}),
)
# fmt: on

"""Tables of an ablation: what stands beside the paper's figures, and when a difference is formed."""

import pytest

from processor.ablation.cost import Cost
from processor.ablation.tables import RowResult, write_tables
from processor.protocol import EvalProtocol
from tests.conftest import read_csv


def run(mean_ap: float, num_query: int = 1980, num_gallery: int = 11310, dataset: str = "MARS", **protocol) -> dict:
    scores = {"mAP": mean_ap, "mINP": mean_ap / 2, "rank1": mean_ap + 0.02, "rank5": 0.99, "rank10": 0.99, "rank20": 1}
    protocol = EvalProtocol(dataset, "dense", gallery_includes_query=True).describe() | protocol
    return scores | {"num_query": num_query, "num_gallery": num_gallery, "protocol": protocol}


def table(out, results) -> list[dict[str, str]]:
    write_tables(out, results)
    return read_csv(out / "tables.csv")


def test_the_official_test_set_gives_differences(tmp_path):
    runs = [run(0.90), run(0.91)]
    (record,) = table(tmp_path, [RowResult("table2_row6", Cost(103.776, 12.7104, 12.34), True, runs)])
    assert record["mAP"] == "90.50" and record["mAP spread"] == "0.71" and record["seeds"] == "2"
    assert record["mAP paper"] == "89.4" and record["mAP difference"] == "+1.10"
    assert record["Rank-1 difference"] == "-0.50" and record["Rank-5 difference"] == "+1.10"
    assert (record["params M"], record["params M paper"]) == ("103.78", "104.26")
    line = next(x for x in (tmp_path / "tables.md").read_text().splitlines() if x.startswith("| 6"))
    assert "| 90.50 ± 0.71 | 89.4 | +1.10 | 45.25 ± 0.35 | - | - | 92.50" in line  # the paper has no mINP
    assert "No difference is formed" not in (tmp_path / "tables.md").read_text()


@pytest.mark.parametrize(
    ("as_paper", "other"),
    [
        (False, {}),
        (True, {"num_query": 192, "num_gallery": 832}),
        (True, {"ap": "trapezoid"}),
        (True, {"sampling": "first"}),
        (True, {"re_ranking": {"k1": 50, "k2": 15, "lambda": 0.3}}),
        (True, {"neck_feat": "after"}),
        (True, {"precision": "bfloat16"}),
        (True, {"same_camera_filter": False}),
    ],
)
def test_another_network_or_test_gives_none(tmp_path, as_paper, other):
    results = [RowResult("table2_row6", Cost(1, 1, 1), as_paper, [run(0.9), run(0.9, **other)])]
    (record,) = table(tmp_path, results)
    assert record["mAP paper"] == "89.4" and record["mAP difference"] == ""
    assert record["params M paper"] == ("104.26" if as_paper else "")
    assert "No difference is formed" in (tmp_path / "tables.md").read_text()


def test_the_paper_figures_are_those_of_the_data_set(tmp_path):
    lsvid = run(0.838, 3504, 11333, "LS-VID")
    (record,) = table(tmp_path, [RowResult("table2_row6", None, True, [lsvid])])
    assert (record["mAP paper"], record["mAP difference"], record["Rank-5 paper"]) == ("83.8", "+0.00", "97.1")
    (record,) = table(tmp_path, [RowResult("table5_conv1d", None, True, [lsvid])])
    assert record["mAP"] == "83.80" and record["mAP paper"] == record["mAP difference"] == ""


def test_rows_come_in_the_order_of_the_paper_and_own_rows_last(tmp_path):
    names = ["mine", "table5_tmd", "table2_row3", "table2_row1"]
    records = table(tmp_path, [RowResult(name) for name in names])
    assert [record["config"] for record in records] == ["table2_row1", "table2_row3", "table5_tmd", "mine"]
    assert all(record["mAP"] == "" and record["seeds"] == "0" for record in records)

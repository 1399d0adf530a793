"""curves.png: what is drawn, for one epoch and for many."""

import numpy as np
import pytest
from PIL import Image

from processor.evaluation import draw_curves, save_curves
from processor.evaluation.html_report.run_files import read_history
from tests.refusals import refused


def history(epochs: int) -> list[dict[str, float]]:
    rows = []
    for epoch in range(1, epochs + 1):
        losses = {"id": 9 / epoch, "triplet": 5.0**-epoch, "v2m": 0.0, "frame_id": 3, "total": 7}
        rows.append({"epoch": epoch, "lr": 1e-5 * 0.1 ** (epoch // 30), "seconds": 60 + epoch % 3})
        rows[-1] |= {f"loss_{name}": value for name, value in losses.items()}
        if epoch % 2 == 0:
            rows[-1] |= {"mAP": 0.5, "mINP": 0.25, "rank1": 0.75, "rank5": 1.0, "rank10": 1.0, "rank20": 1.0}
    return rows


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): tuple(map(list, line.get_data())) for line in axes.lines}


def test_each_value_of_the_history_is_a_point():
    losses, scores, rate, seconds = draw_curves(history(4)).axes
    assert set(lines(losses)) == {"identity", "triplet", "frames", "total"}  # the term that is always 0 is left out
    assert lines(losses)["identity"] == ([1, 2, 3, 4], [9, 4.5, 3, 2.25])
    assert lines(scores)["Rank-1"] == ([2, 4], [75, 75])
    assert [list(curve[1]) for curve in lines(seconds).values()] == [[61, 62, 60, 61]]
    assert losses.get_yscale() == "log" and rate.get_yscale() == "linear"
    rate = draw_curves(history(80)).axes[2]
    assert rate.get_yscale() == "log" and len(lines(rate)["_child0"][0]) == 80


def test_one_epoch_without_a_test_has_points_that_are_seen():
    figure = draw_curves(history(1))
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]
    assert figure.axes[0].lines[0].get_marker() == "o"
    assert [text.get_text() for text in figure.axes[1].texts] == ["no test yet"]


@pytest.mark.parametrize("epochs", [1, 80])
def test_the_picture_is_written_whole(tmp_path, epochs):
    save_curves(tmp_path / "curves.png", history(epochs))
    with Image.open(tmp_path / "curves.png") as image:
        assert (image.format, image.size) == ("PNG", (1200, 800))
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(2**20)}
    assert len(colours) > 20 and 0.5 < colours[255, 255, 255] / (1200 * 800) < 0.99
    assert (0, 0x72, 0xB2) in colours and (0, 0, 0) in colours  # identity and total
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    refused("cannot be written", save_curves, tmp_path / "nowhere" / "curves.png", history(1))


def test_the_picture_is_drawn_from_the_file_of_a_run(trained_run, tmp_path):
    """And that of the run is the same."""
    rows = read_history(trained_run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    save_curves(tmp_path / "again.png", rows)
    with Image.open(trained_run / "curves.png") as first, Image.open(tmp_path / "again.png") as second:
        assert np.array_equal(np.asarray(first), np.asarray(second))
    figure = draw_curves([row | {"mINP": ""} for row in rows])  # a file of an earlier version
    assert set(lines(figure.axes[1])) == {"mAP", "Rank-1", "Rank-5"}

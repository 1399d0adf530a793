"""Stripe colours by hand, and the command on a data set."""

import numpy as np
from PIL import Image

from datasets.tracklet import Tracklet
from processor.colour_baseline import main, score_colours, stripe_colours
from processor.protocol import EvalProtocol
from tests.tolerance import allowed, assert_close


def save(path, top, bottom):
    pixels = np.empty((32, 16, 3), np.uint8)
    pixels[:16], pixels[16:] = top, bottom
    Image.fromarray(pixels).save(path)
    return str(path)


def test_stripes_are_mean_colours_over_all_frames(tmp_path):
    frames = (save(tmp_path / "a.png", (255, 0, 0), (0, 0, 51)), save(tmp_path / "b.png", (0, 0, 0), (0, 0, 51)))
    colours = stripe_colours(Tracklet(frames, 1, 0), (32, 16)).reshape(8, 3)
    assert_close(colours[:4], np.array([[0.5, 0, 0]] * 4), terms=2 * 4 * 16)
    assert_close(colours[4:], np.array([[0, 0, 0.2]] * 4), terms=2 * 4 * 16)


def test_equal_clothes_are_found_at_any_brightness(tmp_path):
    query = [Tracklet((save(tmp_path / "q.png", (200, 0, 0), (0, 200, 0)),), 1, 0)]
    gallery = [
        Tracklet((save(tmp_path / "right.png", (100, 0, 0), (0, 100, 0)),), 1, 1),
        Tracklet((save(tmp_path / "wrong.png", (0, 200, 0), (200, 0, 0)),), 2, 1),
    ]
    evaluation = score_colours(query, gallery, (32, 16), EvalProtocol("toy", "dense", True))
    assert evaluation.metrics["mAP"] == 1.0
    assert evaluation.dist_QG[0, 1] ** 2 < allowed(scale=4, terms=8 * 3)  # squares cancel: 1 + 1 - 2


def test_command(tiny_mars, caplog):
    assert main(["DATASETS.ROOT_DIR", str(tiny_mars), "INPUT.SIZE_TRAIN", "[32,16]", "INPUT.SIZE_TEST", "[32,16]"]) == 0
    assert "colours of 8 stripes" in caplog.text
    assert main(["DATASETS.ROOT_DIR", "nowhere"]) == 2

"""A test that shows a model other pixels, or gives it another activation, than its training had is noticed."""

import pytest

from processor.run import eval_main
from tests.conftest import one_error


def test_another_activation_is_refused(trained_run, tiny_argv, tmp_path, caplog):
    keys = {"TEST__WEIGHT": trained_run / "best.pth", "OUTPUT_DIR": tmp_path / "test"}
    line = one_error(caplog, eval_main, tiny_argv(MODEL__NAME="vit_base_patch16_clip_224.laion2b", **keys))
    assert "was trained with MODEL.NAME ViT-B-16 (QuickGELU)" in line and line.endswith("set MODEL.NAME ViT-B-16")
    assert not (tmp_path / "test").exists()


@pytest.mark.parametrize(
    ("key", "value", "warned"),
    [("PIXEL_STATISTICS", "weights", True), ("PIXEL_STATISTICS", "keys", False), ("PIXEL_STD", "[1, 1, 1]", True)],
)
def test_other_pixel_statistics_are_said(key, value, warned, trained_run, tiny_argv, tmp_path, caplog):
    keys = {"TEST__WEIGHT": trained_run / "best.pth", "OUTPUT_DIR": tmp_path / "test", f"INPUT__{key}": value}
    assert eval_main(tiny_argv(**keys)) == 0
    assert ("was trained with pixel mean (0.485, 0.456, 0.406)" in caplog.text) == warned

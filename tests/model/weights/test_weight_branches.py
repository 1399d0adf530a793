"""Weight files of runs with other branches than this model's: SSP on or off, another temporal branch."""

import pytest
import torch

from model.temporal_heads import TEMPORAL_HEADS
from model.weights import ArchitectureError, fill_model, load_weights
from model.weights.file import WeightFile
from tests.conftest import tiny_model
from tests.model.weights.test_weights import checkpoint_of
from utils.errors import InputError


def test_ssp_that_is_off_here_is_skipped_for_tests_and_refused_for_training(tmp_path):
    source, target = tiny_model(), tiny_model(MODEL__SSP__ENABLED=False)
    path = checkpoint_of(source, tmp_path / "ssp.pth")
    with pytest.raises(InputError, match=r"does not fit this training run: ssp\..*: SSP is off here"):
        load_weights(target, path, allow_skipped=False)
    report = load_weights(target, path)
    assert set(report.skipped) == {name for name in source.state_dict() if name.startswith("ssp.")}
    assert set(report.skipped.values()) == {"SSP is off here (MODEL.SSP.ENABLED)"} and not report.missing
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_ssp_that_the_file_lacks_is_reported_for_tests_and_refused_for_training(tmp_path):
    source, target = tiny_model(MODEL__SSP__ENABLED=False), tiny_model()
    path = checkpoint_of(source, tmp_path / "no_ssp.pth")
    with pytest.raises(InputError, match="lacks ssp"):
        load_weights(target, path, allow_skipped=False)
    report = load_weights(target, path)
    assert report.missing == [name for name in target.state_dict() if name.startswith("ssp.")]


TEMPORAL = {
    "TMD": {},
    "TMC": {"MODEL__TMD__MD": False},
    "MD": {"MODEL__TMD__TMC": False},
    "TAP": {"MODEL__TEMPORAL": "TAP"},
    **{name: {"MODEL__TEMPORAL": name} for name in TEMPORAL_HEADS},
}


def test_weights_of_another_temporal_branch_are_refused(tmp_path):
    """Retrieval reads this branch, so no part of it may stay random, and none may be dropped."""
    models = {name: tiny_model(**options) for name, options in TEMPORAL.items()}
    for there, source in models.items():
        file = WeightFile("checkpoint", source.state_dict())
        for here, target in models.items():
            if there == here:
                assert not fill_model(target, file, "file", allow_skipped=True).missing
                continue
            before = {name: value.clone() for name, value in target.state_dict().items()}
            for allow_skipped in (True, False):
                with pytest.raises(ArchitectureError, match="file is of another .* MODEL.TEMPORAL and MODEL.TMD"):
                    fill_model(target, file, "file", allow_skipped)
            assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_weights_of_the_class_transformer_belong_to_one_number_of_frames():
    there, here = (tiny_model(MODEL__TEMPORAL="TRANSF_CLS", INPUT__SEQ_LEN=frames) for frames in (2, 3))
    with pytest.raises(ArchitectureError, match=r"frame_positions \(3, 64\) has \(4, 64\) here; .* INPUT.SEQ_LEN"):
        fill_model(here, WeightFile("checkpoint", there.state_dict()), "file", allow_skipped=True)

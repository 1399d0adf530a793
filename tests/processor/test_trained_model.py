"""A trained network from a file alone computes what a test of its run computes."""

import hashlib
import os
import shutil

import numpy as np
import pytest
import torch

from configs import load_cfg
from datasets import build_test_loader, load_splits
from model.weights import read_weight_file
from processor import trained_model
from processor.evaluation import tracklet_means
from processor.trained_model import load_trained
from tests.conftest import load, tiny_cfg, tiny_model
from utils.errors import InputError


def test_a_checkpoint_brings_what_a_test_needs(trained_run, tiny_mars):
    trained = load_trained(trained_run / "best.pth", device="cpu")
    splits = load_splits("MARS", str(tiny_mars))
    assert trained.cameras == splits.cameras
    tracklets = splits.query + splits.gallery
    means = tracklet_means(
        trained.model.embed,
        lambda some: build_test_loader(trained.cfg, some, trained.cfg.TEST.SAMPLING),
        tracklets, trained.runtime, "test",
    )  # fmt: skip
    tested = np.load(trained_run / "features.npz")["features"]
    assert means.numpy() == pytest.approx(tested, rel=0, abs=1e-6 * float(np.abs(tested).max()))


def test_a_camera_that_is_not_known_is_treated_as_an_unseen_one(trained_run):
    clips = torch.randn(1, 2, 3, 32, 16)
    for unseen in ("off", "mean"):
        cfg = load_cfg(trained_run / "config.yml", ["MODEL.SIE_UNSEEN", unseen])
        trained = load_trained(trained_run / "best.pth", cfg, "cpu")
        with torch.inference_mode():
            found = trained.model.embed(clips, torch.tensor([trained.no_camera]))
            without = trained.model.embed(clips)
            named = trained.model.embed(clips, torch.tensor([trained.camera_number("5")]))
        assert torch.equal(named, found)  # of the data set, but not of its training tracklets
        assert torch.equal(found, without) == (unseen == "off")


def test_an_unknown_camera_and_a_file_without_config_are_refused_by_name(trained_run, tmp_path):
    trained = load_trained(trained_run / "best.pth")
    assert [trained.camera_number(name) for name in trained.cameras] == list(range(len(trained.cameras)))
    assert trained.trained_cameras == ("1", "2", "3")  # of the six of MARS, those that the training tracklets have
    with pytest.raises(InputError, match="camera '9' is unknown to the model, which knows 1, 2, 3; leave it out"):
        trained.camera_number("9")
    torch.save(load(trained_run / "best.pth")["model"], tmp_path / "weights.pth")
    with pytest.raises(InputError, match="does not say how it was trained: name its config with --config_file"):
        load_trained(tmp_path / "weights.pth")
    model = load_trained(tmp_path / "weights.pth", tiny_cfg()).model
    assert torch.equal(model.state_dict()["neck_g.weight"], load(trained_run / "best.pth")["model"]["neck_g.weight"])


def test_without_cameras_any_name_will_do(trained_run, tmp_path):
    model = tiny_model(num_cameras=0)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    trained = load_trained(tmp_path / "weights.pth", tiny_cfg(), "cpu")
    assert trained.cameras == () and trained.camera_number("roof") == 0 == trained.no_camera


def test_the_checksum_is_that_of_the_weights_even_if_the_file_is_replaced_meanwhile(trained_run, tmp_path, monkeypatch):
    path = tmp_path / "best.pth"
    shutil.copy(trained_run / "best.pth", path)
    newer = load(path)
    newer["model"]["neck_g.weight"] += 1
    torch.save(newer, tmp_path / "newer.pth")
    reads = []

    def read_and_replace(found):
        reads.append(content := read_weight_file(found))
        if len(reads) == 1:
            os.replace(tmp_path / "newer.pth", path)
        return content

    monkeypatch.setattr(trained_model, "read_weight_file", read_and_replace)
    trained = load_trained(path, device="cpu")
    assert trained.weight_sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and len(reads) == 2
    assert torch.equal(trained.model.state_dict()["neck_g.weight"], newer["model"]["neck_g.weight"])

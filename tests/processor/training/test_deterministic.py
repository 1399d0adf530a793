"""SOLVER.DETERMINISTIC: the same bits from the same seed. What only a GPU shows is in tests/gpu."""

import os
import shutil

import pytest
import torch

from processor.run import train_main
from processor.training.feature_cache import describe_machine
from tests.conftest import load, one_error
from tests.refusals import refused
from utils.group_means import GroupMeans
from utils.seed import make_deterministic

KEY = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """torch's settings and the environment are put back."""
    monkeypatch.setenv(KEY, "")  # remembered, then taken away
    monkeypatch.delenv(KEY)
    yield
    make_deterministic(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_what_is_set(caplog):
    torch.backends.cudnn.benchmark = True
    with caplog.at_level("INFO"):
        make_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ[KEY] == ":4096:8" and not torch.backends.cudnn.benchmark
    assert "the same seed gives the same weights on this machine (SOLVER.DETERMINISTIC)" in caplog.text
    make_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_workspace_of_the_user_is_kept_or_refused(monkeypatch):
    monkeypatch.setenv(KEY, ":16:8")
    make_deterministic(True)
    assert os.environ[KEY] == ":16:8"
    make_deterministic(False)
    monkeypatch.setenv(KEY, ":0:0")
    refused(f"SOLVER.DETERMINISTIC True: the environment has {KEY}=':0:0', with which", make_deterministic, True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_means_of_groups_stay_means_of_groups():
    features, groups = torch.randn(50, 7), torch.arange(50) % 3
    means = []
    for enabled in (False, True):
        make_deterministic(enabled)
        groups_means = GroupMeans(3)
        groups_means.add(features, groups)
        means.append(groups_means.means())
    assert torch.equal(*means)


def test_features_of_other_algorithms_are_not_taken_from_the_cache():
    found = []
    for enabled in (False, True):
        make_deterministic(enabled)
        found.append(describe_machine(torch.device("cpu")))
    assert found[1] == found[0] | {"algorithms": "deterministic"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_weights_are_equal_bit_for_bit_whatever_the_number_of_workers(tiny_argv, tmp_path):
    """And the key itself changes nothing on a CPU, where torch repeats itself anyway."""
    states = {}
    runs = {"first": (0, True), "again": (0, True), "one": (1, True), "three": (3, True), "off": (0, False)}
    for name, (workers, deterministic) in runs.items():
        keys = {"DATALOADER__NUM_WORKERS": workers, "SOLVER__DETERMINISTIC": deterministic, "SOLVER__MAX_EPOCHS": 2}
        keys |= {"INPUT__RE_MODE": "pixel", "OUTPUT_DIR": tmp_path / name}
        assert train_main(tiny_argv(**keys)) == 0
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        states[name] = load(tmp_path / name / "last.pth")["model"]
        log = (tmp_path / name / "train_log.txt").read_text()
        assert ("deterministic: the same seed" in log) == deterministic
    for name, state in states.items():
        assert [key for key, value in state.items() if not torch.equal(value, states["first"][key])] == [], name


def test_the_key_may_change_when_a_run_continues(tiny_argv, trained_run, tmp_path, caplog, monkeypatch):
    shutil.copytree(trained_run, tmp_path / "run")
    files = {"TEST__SAVE_FEATURES": True, "TEST__SAVE_RANKS": True, "TEST__CONTACT_SHEET": 3, "TEST__UNTRAINED": True}
    assert train_main(tiny_argv("--resume", SOLVER__DETERMINISTIC=True, **files)) == 0
    monkeypatch.setenv(KEY, "no")
    make_deterministic(False)
    line = one_error(caplog, train_main, tiny_argv("--overwrite", SOLVER__DETERMINISTIC=True))
    assert line.startswith(f"error: SOLVER.DETERMINISTIC True: the environment has {KEY}='no'")

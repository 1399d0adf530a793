"""A leading ~ is the home folder wherever a path is given: keys, options of commands, TEST.DATASETS."""

import pytest

from configs import load_cfg
from datasets.check import main as check_main
from datasets.pack import main as pack_main
from datasets.registry import parse_dataset_list
from datasets.synthetic.command import main as synthetic_main

SMALL = ["--train-ids", "2", "--test-ids", "2", "--cameras", "2", "--tracklets", "1", "--size", "32", "16"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder that holds a set in mars/; the current folder is another one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert synthetic_main(["--root", "~/mars", *SMALL, "--workers", "0"]) == 0
    return tmp_path / "home"


def test_the_commands_of_data_sets_find_and_write_in_the_home_folder(home, tmp_path, capsys):
    assert (home / "mars" / "info" / "train_name.txt").is_file()
    root = ["DATASETS.ROOT_DIR", "~/mars", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "4"]
    root += ["DATALOADER.NUM_INSTANCE", "2"]
    assert pack_main(["--out", "~/mars.pack", *root]) == 0
    assert pack_main(["--check", "--out", "~/mars.pack", *root]) == 0
    assert check_main(["--fix-list", "~/fix.csv", *root]) == 0
    assert check_main([*root, "DATASETS.EXCLUDE", "~/fix.csv", "DATASETS.PACK", "~/mars.pack"]) == 0
    assert f"MARS in {home / 'mars'}" in capsys.readouterr().out
    assert sorted(path.name for path in home.iterdir()) == ["fix.csv", "mars", "mars.pack"]
    assert not any((tmp_path / "elsewhere").iterdir())


def test_every_key_of_a_path_and_the_folders_of_a_list_of_sets(home):
    keys = ("ROOT_DIR", "EXCLUDE", "PACK", "CACHE_DIR")
    cfg = load_cfg(opts=[part for key in keys for part in (f"DATASETS.{key}", f"~/{key}")])
    assert [getattr(cfg.DATASETS, key) for key in keys] == [str(home / key) for key in keys]
    assert parse_dataset_list(["MARS:~/mars", "ls-vid: ~/a~b"]) == [
        ("MARS", str(home / "mars")),
        ("LS-VID", str(home / "a~b")),
    ]

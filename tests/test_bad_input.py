"""Faults of the input: one clear line, exit code 2, nothing lost."""

import gc
import shutil
from functools import partial

import pytest
import scipy.io
import torch

from processor.run import eval_main, train_main
from tests.conftest import contents, load, one_error, tiny_options


@pytest.fixture
def data(tiny_mars, tmp_path):
    """A copy of the tiny set that a test may break."""
    return shutil.copytree(tiny_mars, tmp_path / "mars")


@pytest.fixture
def fails(caplog):
    """fails(main, argv) -> the only error line of a command that must end with exit code 2."""
    return partial(one_error, caplog)


@pytest.mark.parametrize("main", [train_main, eval_main])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["SOLVER.BASE_RL", "1"], "unknown key SOLVER.BASE_RL: did you mean SOLVER.BASE_LR?"),
        (["SOLVER.SEED"], "options come in pairs KEY VALUE, 'SOLVER.SEED' has no partner"),
        (["--resum"], "unrecognized arguments: --resum"),
        (["--config_file", "absent.yml"], "config file absent.yml does not exist"),
        (["TEST.PRECISION", "fp16"], "TEST.PRECISION fp16 needs a GPU"),
        (["SOLVER.IMS_PER_BATCH", "5"], "SOLVER.IMS_PER_BATCH 5 must be divisible by DATALOADER.NUM_INSTANCE 2"),
        (["DATASETS.NAMES", "MARZ"], "DATASETS.NAMES 'MARZ' is not known; it must be one of MARS"),
        (["DATASETS.ROOT_DIR", "nowhere"], "DATASETS.ROOT_DIR nowhere is not a folder"),
        (["TEST.WEIGHT", "a.pth", "MODEL.PRETRAIN_CHOICE", "openai", "MODEL.PRETRAIN_PATH", "b.pt"], "does not exist"),
    ],
)
def test_faults_of_the_command_line(main, flags, expected, tiny_argv, tmp_path, fails):
    if flags[:2] == ["SOLVER.AMP", "fp16"] and torch.cuda.is_available():
        pytest.skip("fp16 is allowed on a GPU")
    argv = tiny_argv()
    if "MODEL.PRETRAIN_PATH" in flags:
        argv = [part for pair in zip(argv[::2], argv[1::2]) if "ENCODER" not in pair[0] for part in pair]
    torch.save({}, tmp_path / "weight.pth")
    if main is eval_main and "TEST.WEIGHT" not in flags:
        argv += ["TEST.WEIGHT", str(tmp_path / "weight.pth")]
    assert expected in fails(main, [*argv, *flags])
    assert not (tmp_path / "run").exists()


def test_a_missing_list_is_named_with_how_to_get_it(data, tiny_argv, tmp_path, fails):
    path = data / "info" / "query_IDX.mat"
    path.unlink()
    line = fails(train_main, tiny_argv(DATASETS__ROOT_DIR=data))
    assert str(path) in line and "MARS-evaluation" in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize("column", [2, 3])
def test_a_tracklet_that_mixes_people_or_cameras(column, data, tiny_argv, fails):
    path = data / "info" / "tracks_train_info.mat"
    table = scipy.io.loadmat(path)["track_train_info"]
    table[1, column] = table[1, column] % 3 + 1 if column == 3 else 77
    scipy.io.savemat(path, {"track_train_info": table})
    line = fails(train_main, tiny_argv(DATASETS__ROOT_DIR=data))
    assert f"{path} row 2" in line and "mixes people or cameras" in line


def test_fewer_identities_than_p(tiny_argv, fails):
    line = fails(train_main, tiny_argv(SOLVER__IMS_PER_BATCH=14))
    assert "6 identities, fewer than the 7 of a batch" in line and "SOLVER.IMS_PER_BATCH" in line


def test_images_that_are_missing(data, tiny_argv, fails):
    path = sorted((data / "bbox_train").rglob("*.jpg"))[5]
    path.unlink()
    assert f"frame {path} does not exist" in fails(train_main, tiny_argv(DATASETS__ROOT_DIR=data))
    shutil.rmtree(data / "bbox_test")
    assert "bbox_test" in fails(train_main, tiny_argv("--overwrite", DATASETS__ROOT_DIR=data))


@pytest.mark.parametrize(
    ("content", "workers"), [(b"", 0), (b"no image", 0), (None, 0), pytest.param(None, 2, marks=pytest.mark.slow)]
)
def test_image_that_cannot_be_decoded_is_named(workers, content, data, tiny_argv, fails):
    path = sorted((data / "bbox_train").rglob("*.jpg"))[5]
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    line = fails(train_main, tiny_argv(DATASETS__ROOT_DIR=data, DATALOADER__NUM_WORKERS=workers))
    assert line.startswith(f"error: frame {path} cannot be decoded")
    if workers:
        gc.collect()  # waits 5 s for the workers of the broken-off pass: here, not in the next test


@pytest.fixture(scope="module")
def one_epoch_run(tiny_mars, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    assert train_main(tiny_options(DATASETS__ROOT_DIR=tiny_mars, OUTPUT_DIR=out, SOLVER__MAX_EPOCHS=1)) == 0
    return out


@pytest.fixture
def finished(one_epoch_run, tmp_path):
    """A finished run of one epoch that a test may break."""
    return shutil.copytree(one_epoch_run, tmp_path / "run")


def test_output_dir_that_holds_a_run_is_refused_and_kept(finished, tiny_argv, fails):
    before = contents(finished)
    line = fails(train_main, tiny_argv())
    assert "holds a run" in line and "--resume" in line and "--overwrite" in line
    assert "exclude each other" in fails(train_main, tiny_argv("--resume", "--overwrite"))
    # Not even --overwrite loses the old run to a typo in another key.
    fails(train_main, tiny_argv("--overwrite", DATASETS__ROOT_DIR="nowhere"))
    assert contents(finished) == before


def test_overwrite_starts_anew_and_touches_no_other_file(finished, tiny_argv):
    (finished / "notes.txt").write_text("mine")
    assert train_main(tiny_argv("--overwrite", SOLVER__MAX_EPOCHS=2)) == 0
    assert load(finished / "last.pth")["epoch"] == 2
    assert (finished / "notes.txt").read_text() == "mine"


def test_resume_refuses_another_recipe_and_nothing_to_resume(finished, tiny_argv, tmp_path, fails):
    line = fails(train_main, tiny_argv("--resume", SOLVER__BASE_LR="1e-5"))
    assert "SOLVER.BASE_LR 0.001, now it is 1e-05" in line
    others = {"PADDING": 2, "INTERPOLATION": "bicubic", "RE_MODE": "pixel", "PIXEL_MEAN": "[0.5, 0.5, 0.5]"}
    for key, value in others.items():
        assert f"INPUT.{key} " in fails(train_main, tiny_argv("--resume", **{f"INPUT__{key}": value}))
    line = fails(train_main, tiny_argv("--resume", OUTPUT_DIR=tmp_path / "empty"))
    assert "last.pth does not exist, so there is no run to resume" in line


def test_resume_refuses_another_protocol_while_it_still_chooses_the_best_epoch(finished, tiny_argv, fails):
    line = fails(train_main, tiny_argv("--resume", TEST__SAME_CAMERA_FILTER=False))
    assert "TEST.SAME_CAMERA_FILTER 'auto', now it is 'False'" in line
    only_final_test_left = tiny_argv("--resume", TEST__SAME_CAMERA_FILTER=False, SOLVER__MAX_EPOCHS=1)
    assert train_main(only_final_test_left) == 0


def test_resume_refuses_fewer_epochs_and_a_missing_best(finished, tiny_argv, fails):
    assert train_main(tiny_argv("--resume", SOLVER__MAX_EPOCHS=2)) == 0
    line = fails(train_main, tiny_argv("--resume", SOLVER__MAX_EPOCHS=1))
    assert "last.pth has 2 epochs already, SOLVER.MAX_EPOCHS 1 is less" in line
    (finished / "best.pth").unlink()
    assert "best.pth is missing" in fails(train_main, tiny_argv("--resume"))


def test_resume_refuses_other_frames_and_identities_but_not_another_place(finished, tiny_argv, data, tmp_path, fails):
    keys = {"SOLVER__MAX_EPOCHS": 1, "DATASETS__ROOT_DIR": data}
    assert train_main(tiny_argv("--resume", **keys)) == 0
    frame = next((data / "bbox_train").rglob("*.jpg")).relative_to(data)
    (tmp_path / "list.csv").write_text(f"split,frame,reason\ntrain,{frame},blurred\n")
    line = fails(train_main, tiny_argv("--resume", DATASETS__EXCLUDE=tmp_path / "list.csv", **keys))
    assert "was trained on other tracklets" in line and "DATASETS.EXCLUDE" in line
    path = data / "info" / "tracks_train_info.mat"
    table = scipy.io.loadmat(path)["track_train_info"]
    scipy.io.savemat(path, {"track_train_info": table[table[:, 2] != table[0, 2]]})
    assert "classifier of 6 identities, 5 here" in fails(train_main, tiny_argv("--resume", **keys))


def test_a_run_stopped_before_its_first_checkpoint_starts_anew(finished, tiny_argv):
    for name in ("last.pth", "best.pth", "history.csv", "metrics.json"):
        (finished / name).unlink()
    assert train_main(tiny_argv(SOLVER__MAX_EPOCHS=1)) == 0


def test_queries_that_nothing_can_match_are_found_before_training(data, tiny_argv, tmp_path, fails):
    info = data / "info"
    table = scipy.io.loadmat(info / "tracks_test_info.mat")["track_test_info"]
    queries = set(scipy.io.loadmat(info / "query_IDX.mat")["query_IDX"].ravel() - 1)
    first_camera = [row for row in range(len(table)) if table[row, 3] == 1]
    scipy.io.savemat(info / "tracks_test_info.mat", {"track_test_info": table[first_camera]})
    kept = [new + 1 for new, old in enumerate(first_camera) if old in queries]
    scipy.io.savemat(info / "query_IDX.mat", {"query_IDX": [kept]})
    line = fails(train_main, tiny_argv(DATASETS__ROOT_DIR=data))
    assert "MARS cannot be scored: none of 4 queries has a true match in the gallery in another camera" in line
    assert "TEST.SAME_CAMERA_FILTER" in line and not (tmp_path / "run").exists()


def test_truncated_checkpoint(finished, tiny_argv, fails):
    for name in ("last.pth", "best.pth"):
        (finished / name).write_bytes((finished / name).read_bytes()[:4000])
    assert "last.pth cannot be read; it is truncated" in fails(train_main, tiny_argv("--resume"))
    assert "best.pth cannot be read; it is truncated" in fails(eval_main, tiny_argv())


def test_weights_of_another_architecture_and_of_clips_encoder(finished, tiny_argv, tmp_path, fails):
    line = fails(eval_main, tiny_argv(MODEL__ENCODER__WIDTH=128))
    assert "best.pth is of another architecture" in line and "it was trained with MODEL.ENCODER.WIDTH 64" in line
    assert f"the config of its run is {finished / 'config.yml'}" in line
    assert eval_main(["--config_file", str(finished / "config.yml"), "OUTPUT_DIR", str(finished)]) == 0
    prefix, model = "encoder.vit.", load(finished / "best.pth")["model"]
    vit = {name.removeprefix(prefix): value for name, value in model.items() if name.startswith(prefix)}
    vit["pos_embed"] = torch.zeros(1, 5, 64)
    torch.save(vit, tmp_path / "timm.pth")
    assert "holds only CLIP's encoder" in fails(eval_main, tiny_argv(TEST__WEIGHT=tmp_path / "timm.pth"))


def test_files_and_folders_in_each_others_place(tiny_argv, tmp_path, fails):
    taken = tmp_path / "taken"
    taken.write_text("")
    assert "is a file" in fails(train_main, tiny_argv(OUTPUT_DIR=taken))
    for main in (train_main, eval_main):
        assert "cannot be written" in fails(main, tiny_argv(OUTPUT_DIR=taken / "run"))
    assert f"{tmp_path} is a folder" in fails(eval_main, tiny_argv(TEST__WEIGHT=tmp_path))
    assert f"{tmp_path} is a folder" in fails(train_main, tiny_argv("--config_file", str(tmp_path)))


def test_weights_that_hold_nan(finished, tiny_argv, tmp_path, fails):
    state = load(finished / "best.pth")
    state["model"]["encoder.vit.norm.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    line = fails(eval_main, tiny_argv(TEST__WEIGHT=tmp_path / "nan.pth"))
    assert "the features hold nan or inf: the weights are broken" in line


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x05\x06" + bytes(18)])
def test_files_that_are_no_weights(content, tiny_argv, tmp_path, fails):
    (tmp_path / "weight.pth").write_bytes(content)
    line = fails(eval_main, tiny_argv(TEST__WEIGHT=tmp_path / "weight.pth"))
    assert "weight.pth cannot be read; it is truncated or not a weight file" in line and "weights_only" not in line


def test_a_broken_query_image_loses_no_trained_epoch(data, tiny_argv, tmp_path, fails, caplog):
    query = sorted((data / "bbox_test" / "0007").glob("*.jpg"))[0]
    whole = query.read_bytes()
    query.write_bytes(b"no image")
    argv = {"DATASETS__ROOT_DIR": data, "SOLVER__EVAL_PERIOD": 2}
    assert "cannot be decoded (it is no image)" in fails(train_main, tiny_argv(**argv))
    assert load(tmp_path / "run" / "last.pth")["epoch"] == 2
    query.write_bytes(whole)
    caplog.clear()
    assert train_main(tiny_argv("--resume", **argv)) == 0
    assert "continuing after epoch 2" in caplog.text and "epoch 2/3: mAP" in caplog.text

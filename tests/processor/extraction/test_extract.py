"""python -m processor.extract: folders, lists and videos have the features of a test; one line for what is wrong."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import load_cfg
from datasets.own.names import NamedTracklet
from processor.extract import main
from processor.extractor import FeatureExtractor, extract_features, load_table, opened_input
from tests.conftest import ROOT, load, one_error
from tests.datasets.own.video_files import picture, write_video
from tests.tolerance import TINY_LAYERS, TINY_SUM, allowed
from utils.errors import InputError

NEAR = allowed(1.0, TINY_SUM, TINY_LAYERS)


def argv(trained_run, source, out, *more):
    return ["--weight", f"{trained_run}/best.pth", "--input", str(source), "--out", str(out), *more]


@pytest.fixture
def own_folder(tested, tmp_path) -> Path:
    """The test tracklets of the tiny data set as <person>/<camera>_<number>/."""
    tracklets, cameras, _ = tested
    for number, (tracklet, camera) in enumerate(zip(tracklets, cameras)):
        folder = tmp_path / "own" / str(tracklet.pid) / f"{camera}_{number:03d}"
        folder.mkdir(parents=True)
        for frame in tracklet.frames:
            os.symlink(frame, folder / os.path.basename(frame))
    return tmp_path / "own"


def rows_of(table, tested):
    """The number of each tracklet of the table among those of the test, which ends its name."""
    rows = [int(name.rpartition("_")[2]) for name in table.names]
    assert sorted(rows) == list(range(len(tested[0])))
    return rows


def test_a_folder_gives_the_features_of_the_test(trained_run, own_folder, tested, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert main(argv(trained_run, own_folder, tmp_path / "f.npz")) == 0
    tracklets, cameras, expected = tested
    table = load_table(tmp_path / "f.npz")
    rows = rows_of(table, tested)
    assert np.abs(table.features - expected[rows]).max() <= min(NEAR, 1e-6) and table.features.dtype == np.float32
    assert table.persons.tolist() == [str(tracklets[row].pid) for row in rows]
    assert table.cameras.tolist() == [cameras[row] for row in rows]
    assert table.frames.tolist() == [len(tracklets[row].frames) for row in rows]
    middle = [os.path.basename(tracklets[row].frames[len(tracklets[row].frames) // 2]) for row in rows]
    assert [os.path.basename(path) for path in table.pictures] == middle and all(map(os.path.isfile, table.pictures))
    assert table.weight == f"{trained_run}/best.pth" and len(table.weight_sha256) == 64 and "MODEL:" in table.config
    with np.load(tmp_path / "f.npz") as file:
        assert file["pictures"][0].startswith("own/")  # so that folder and file may be moved together
    assert f"own, read as <person>/<camera>_<tracklet>/: {len(tracklets)} tracklets, " in caplog.text
    assert "cameras: 1, 2, 3 as in training; not known for 0 of" in caplog.text
    assert main(argv(trained_run, own_folder, tmp_path / "f.npz", "--camera", "2")) == 0  # its own file is written anew
    same = [row for row, camera in enumerate(table.cameras) if camera == "2"]
    again = load_table(tmp_path / "f.npz")
    distance = np.abs(again.features - table.features).max(axis=1)
    assert set(again.cameras) == {"2"} and np.flatnonzero(distance <= NEAR).tolist() == same
    assert main(argv(trained_run, own_folder, tmp_path / "f.npz", "--camera", "")) == 0
    assert set((unknown := load_table(tmp_path / "f.npz")).cameras) == {""}
    caplog.clear()
    with caplog.at_level("INFO"):
        assert main(argv(trained_run, own_folder, tmp_path / "f.npz", "--camera", "5")) == 0
    count = len(tracklets)
    assert f"cameras: none; not known for {count} of {count} tracklets, those of 5 among them, which " in caplog.text
    assert np.abs(load_table(tmp_path / "f.npz").features - unknown.features).max() <= NEAR


def test_a_list_gives_the_features_of_the_test(trained_run, tested, tiny_mars, tmp_path):
    tracklets, cameras, expected = tested
    rows = [f"{camera},t_{number:03d},{frame}" for number, (t, camera) in enumerate(zip(tracklets, cameras))
            for frame in t.frames]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(["camera,tracklet,frame", *rows]))
    assert main(argv(trained_run, tmp_path / "list.csv", tmp_path / "f.npz", "DATASETS.OUTSIDE", "allow")) == 0
    table = load_table(tmp_path / "f.npz")
    assert np.abs(table.features - expected[rows_of(table, tested)]).max() <= min(NEAR, 1e-6)
    assert table.names[0] == f"{cameras[0]}_t_000" and set(table.persons) == {""}


def test_boxes_in_a_video_are_the_same_pixels_in_memory(trained_run, extractor, tmp_path):
    write_video(tmp_path / "mine" / "a.avi", "huffyuv", "rgb24")
    rows = ["a,a.avi,3,2,4,20,40", "a,a.avi,1,2,4,20,40", "b,a.avi,7,,,,"]
    (tmp_path / "mine" / "boxes.csv").write_text("\n".join(["tracklet,video,frame,x,y,w,h", *rows]))
    out = tmp_path / "f.npz"
    assert main(argv(trained_run, tmp_path / "mine" / "boxes.csv", out)) == 0
    table = load_table(out)
    crops = [np.stack([picture(number)[4:44, 2:22] for number in (1, 3)]), picture(7)[None]]
    assert np.abs(table.features - extractor.many(crops, progress=False)).max() <= NEAR
    assert table.pictures.tolist() == ["", ""]  # they were in a temporary folder
    assert main(argv(trained_run, tmp_path / "mine" / "boxes.csv", out, "--cache", str(tmp_path / "crops"))) == 0
    assert all(map(os.path.isfile, load_table(out).pictures))


def test_features_to_map_from_the_disk(trained_run, own_folder, tmp_path):
    assert main(argv(trained_run, own_folder, tmp_path / "f.npz")) == 0
    for flag, dtype in ((["--half"], np.float16), ([], np.float32)):
        assert main(argv(trained_run, own_folder, tmp_path / "g.npy", *flag)) == 0
        alone, named = load_table(tmp_path / "g.npy"), load_table(tmp_path / "g.npz")
        expected = load_table(tmp_path / "f.npz")
        assert isinstance(alone.features, np.memmap) and alone.features.dtype == dtype
        assert np.array_equal(alone.features, expected.features.astype(dtype))
        assert np.array_equal(named.features, alone.features) and named.names.tolist() == expected.names.tolist()
    (tmp_path / "g.npz").unlink()
    bare = load_table(tmp_path / "g.npy")
    assert bare.names.tolist() == [str(row) for row in range(len(expected.names))] and bare.weight == ""


def test_features_carry_the_checksum_of_the_weights_that_made_them(trained_run, own_folder, tmp_path):
    """Also when a running training replaces the file after it was read."""
    shutil.copy(trained_run / "best.pth", tmp_path / "best.pth")
    extractor = FeatureExtractor.from_checkpoint(tmp_path / "best.pth", "cpu")
    (tmp_path / "best.pth").write_bytes(b"of another epoch")
    with opened_input(next(path for path in own_folder.rglob("*_000")), extractor) as tracklets:
        table = extract_features(extractor, tracklets, tmp_path / "best.pth")
    assert table.weight_sha256 == hashlib.sha256((trained_run / "best.pth").read_bytes()).hexdigest()


@pytest.mark.parametrize("killed_at", ["processor.extractor.table.write_atomically", "utils.files.os.replace"])
def test_features_on_the_disk_are_written_anew_after_a_kill(trained_run, own_folder, tmp_path, monkeypatch, killed_at):
    """Before the .npz and before the .npy takes its place."""
    source = next(path for path in own_folder.rglob("*_000"))
    command = argv(trained_run, source, tmp_path / "g.npy")
    assert main(command) == 0
    expected = load_table(tmp_path / "g.npy")

    def kill(*args):
        if killed_at.endswith("atomically") or str(args[1]).endswith(".npy"):
            raise KeyboardInterrupt
        replace_file(*args)

    replace_file = os.replace
    monkeypatch.setattr(killed_at, kill)
    with pytest.raises(KeyboardInterrupt):
        with opened_input(source, extractor := FeatureExtractor.from_checkpoint(trained_run / "best.pth")) as tracklets:
            extract_features(extractor, tracklets, trained_run / "best.pth", tmp_path / "g.npy")
    monkeypatch.undo()
    with pytest.raises(InputError, match="g.npy does not exist"):
        load_table(tmp_path / "g.npy")
    assert main(command) == 0
    assert np.array_equal(load_table(tmp_path / "g.npy").features, expected.features)


def test_whether_two_files_belong_together_is_known(trained_run, own_folder, tmp_path):
    source = next(path for path in own_folder.rglob("*_000"))
    other = load(trained_run / "best.pth")
    other["model"]["neck_g.weight"] += 1
    torch.save(other, tmp_path / "other.pth")
    tables = {}
    for name, weight, opts in (
        ("a", "best.pth", []), ("b", "best.pth", ["TEST.FRAMES_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]),
        ("after", "best.pth", ["TEST.NECK_FEAT", "after"]), ("other", "other.pth", []),
    ):  # fmt: skip
        weight = trained_run / weight if weight == "best.pth" else tmp_path / weight
        command = ["--weight", str(weight), "--input", str(source), "--out", str(tmp_path / f"{name}.npz"), *opts]
        assert main(command) == 0
        tables[name] = load_table(tmp_path / f"{name}.npz")
    tables["a"].check_fits(tables["b"], "a", "b")
    with pytest.raises(
        InputError, match="a was extracted with TEST.NECK_FEAT before, after with after; extract one of"
    ):
        tables["a"].check_fits(tables["after"], "a", "after")
    broken = replace(tables["a"], config="MODEL: [")
    with pytest.raises(InputError, match="^c, line 1: not valid YAML"):
        tables["a"].check_fits(broken, "a", "c")
    with pytest.raises(InputError, match="a is of other weights than other: .*best.pth .sha256 [0-9a-f]{12}"):
        tables["a"].check_fits(tables["other"], "a", "other")


@pytest.mark.parametrize("key, value", [
    ("MODEL.NAME", "vit_base_patch16_clip_224.laion2b"),  # of another activation
    ("MODEL.STRIDE_SIZE", "[8, 7]"), ("MODEL.ENCODER.HEADS", "1"), ("MODEL.SIE_CAMERA", "False"),
    ("MODEL.SIE_COE", "3"), ("MODEL.SIE_UNSEEN", "mean"), ("INPUT.SIZE_TEST", "[16, 32]"), ("INPUT.SEQ_LEN", "3"),
    ("INPUT.PIXEL_MEAN", "[0.1, 0.1, 0.1]"), ("INPUT.PIXEL_STD", "[0.1, 0.1, 0.1]"),
    ("INPUT.PIXEL_STATISTICS", "weights"), ("TEST.NECK_FEAT", "after"), ("TEST.SAMPLING", "first"),
])  # fmt: skip
def test_a_key_that_changes_features_though_the_weights_fit_is_compared(trained_run, extractor, tested, key, value):
    tracklets = [NamedTracklet("", "", camera, tested[0][0].frames) for camera in ("1", "5")]
    more = ["INPUT.SIZE_TRAIN", value] if key == "INPUT.SIZE_TEST" else []
    cfg = load_cfg(trained_run / "config.yml", [key, value, *more])
    usual, other = (
        extract_features(used, tracklets, trained_run / "best.pth")
        for used in (extractor, FeatureExtractor.from_checkpoint(trained_run / "best.pth", "cpu", cfg))
    )
    assert np.abs(usual.features - other.features).max() > 10 * NEAR
    with pytest.raises(InputError, match=f"a was extracted with {key.replace('STATISTICS', 'MEAN')} "):
        usual.check_fits(other, "a", "b")


def test_faults_of_the_input_are_one_line(trained_run, own_folder, tested, tmp_path, caplog):
    out = tmp_path / "f.npz"
    source = next(path for path in own_folder.rglob("*_000"))

    def refusal(source=source, out=out, *more):
        line = one_error(caplog, main, argv(trained_run, source, out, *more))
        assert not list(tmp_path.glob("*.np?"))
        return line

    assert "--input nowhere does not exist; name a folder or a CSV file" in refusal("nowhere")
    assert f"--out {tmp_path}/no/f.npz: the folder {tmp_path}/no does not exist" in refusal(
        out=tmp_path / "no" / "f.npz"
    )
    assert "f.txt must end in .npz, or in .npy for features that are mapped" in refusal(out=tmp_path / "f.txt")
    assert (
        "camera 'roof' is unknown to the model, which knows 1, 2, 3; leave it out, or --camera ''"
        in refusal(source, out, "--camera", "roof")
    )
    assert "--half belongs to an --out that ends in .npy" in refusal(source, out, "--half")
    assert "--cache keeps the crops of a CSV file's boxes" in refusal(source, out, "--cache", str(tmp_path / "crops"))
    assert "did you mean TEST.FRAMES_PER_BATCH?" in refusal(source, out, "TEST.FRAME_PER_BATCH", "2")
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in refusal(tmp_path / "empty")
    (own_folder / "5").mkdir(exist_ok=True)
    (own_folder / "5" / "1_999").mkdir()
    assert "5/1_999 holds no image" in refusal(own_folder)
    (tmp_path / "video.csv").write_text("tracklet,video,frame\na,a.avi,0\n")
    assert "row 2: " in (line := refusal(tmp_path / "video.csv")) and "a.avi does not exist" in line
    (tmp_path / "a.avi").write_bytes(b"no video")
    assert "a.avi cannot be decoded as a video from frame 0" in refusal(tmp_path / "video.csv")
    assert "a.avi lacks tracklet, frame (found: no video); it needs" in refusal(tmp_path / "a.avi")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"no image")
    for name in ("f.npz", "g.npy"):
        assert (
            "frame " in (line := refusal(tmp_path / "bad", tmp_path / name)) and "bad/1.png cannot be decoded" in line
        )
    torch.save(load(trained_run / "best.pth")["model"], tmp_path / "plain.pth")
    plain = ["--weight", str(tmp_path / "plain.pth"), "--input", str(source), "--out", str(out)]
    assert "does not say how it was trained: name its config with --config_file" in one_error(caplog, main, plain)
    assert main([*plain, "--config_file", str(trained_run / "config.yml")]) == 0


def test_a_folder_that_takes_no_file_is_named_before_features_are_computed(trained_run, tmp_path, caplog, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    line = one_error(caplog, main, argv(trained_run, tmp_path, tmp_path / "f.npz"))
    assert line.endswith(f"--out {tmp_path} cannot be written (Permission denied)")


def test_only_files_of_this_command_are_written_anew(trained_run, own_folder, tmp_path, caplog):
    source = next(path for path in own_folder.rglob("*_000"))
    shutil.copy(trained_run / "features.npz", tmp_path / "features.npz")
    line = one_error(caplog, main, argv(trained_run, source, tmp_path / "features.npz"))
    assert "features.npz exists and was not written by this command; name another file" in line
    line = one_error(caplog, main, argv(trained_run, source, tmp_path / "features.npy"))  # it would replace the .npz
    assert "features.npz exists and was not written by this command" in line
    np.save(tmp_path / "g.npy", np.zeros((2, 2)))
    assert "g.npy exists and was not written" in one_error(caplog, main, argv(trained_run, source, tmp_path / "g.npy"))


def test_broken_files_of_features_are_named(trained_run, own_folder, tmp_path):
    def refusal(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_table(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    source = next(path for path in own_folder.rglob("*_000"))
    assert main(argv(trained_run, source, tmp_path / "f.npz")) == 0
    content = (tmp_path / "f.npz").read_bytes()
    assert "none.npz does not exist; python -m processor.extract writes such files" in refusal("none.npz")
    assert "cut.npz cannot be read as a file of features" in refusal("cut.npz", content[: len(content) // 2])
    assert "x.npz cannot be read as a file of features" in refusal("x.npz", b"no archive")
    at = content.index(b"features.npy") + 500
    altered = content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]
    assert "altered.npz cannot be read as a file of features" in refusal("altered.npz", altered)
    assert "y.npy cannot be read as an array of features" in refusal("y.npy", b"no array")
    shutil.copy(trained_run / "features.npz", tmp_path / "test.npz")
    assert "test.npz was not written by python -m processor.extract: it lacks names, " in refusal("test.npz")
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    assert "flat.npy holds float32 (3,); expected are features (n, F) in float16 or float32" in refusal("flat.npy")
    np.save(tmp_path / "ints.npy", np.zeros((3, 2), int))
    assert "ints.npy holds int64 (3, 2)" in refusal("ints.npy")
    np.save(tmp_path / "objects.npy", np.array([None]))
    assert "objects.npy cannot be read as an array of features" in refusal("objects.npy")
    assert main(argv(trained_run, source, tmp_path / "h.npy")) == 0
    np.save(tmp_path / "h.npy", np.zeros((3, 2), np.float32))
    assert "h.npz holds names (1,) for 3 tracklets; extract it anew" in refusal("h.npy")
    (tmp_path / "h.npy").unlink()
    assert "h.npy does not exist; the features of" in refusal("h.npz")
    np.save(tmp_path / "f.npy", np.zeros((1, 2), np.float32))
    assert "f.npz beside " in refusal("f.npy")


@pytest.mark.slow
def test_a_mistyped_key_is_answered_without_torch():
    code = (
        "import sys; from processor.extract import main; "
        "code = main('--weight w --input . --out x.npz TEST.SAMPLIN dense'.split()); "
        "print(code, {'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 set()" and "did you mean TEST.SAMPLING?" in done.stderr

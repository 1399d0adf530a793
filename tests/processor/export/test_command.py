"""python -m processor.export: the file, what is said of it, its metadata, its faults; the script of docs/deploy.md."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets import load_splits
from datasets.clips.sampling import dense_clips, first_per_chunk
from datasets.frames import read_frame
from processor.export import facts, onnx_file, pt2_file
from processor.export.command import main
from tests.conftest import ROOT, contents, load, one_error, tiny_model
from utils.errors import InputError
from utils.metrics import l2_normalize

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
SCRIPT = re.search(r"```python\n(import json.*?)```", PAGE, re.S)[1]
ONLY = ("numpy", "numpy.libs", "onnxruntime", "onnxruntime.libs")  # in site-packages


def argv(weight: Path, out: Path, *more: str) -> list[str]:
    return ["--weight", str(weight), "--format", out.suffix[1:], "--out", str(out), *more]


def pt2_facts(path: Path) -> dict[str, str]:
    extra = {pt2_file.FACTS: ""}
    torch.export.load(str(path), extra_files=extra)
    return json.loads(extra[pt2_file.FACTS])


def frames_of(tracklet) -> np.ndarray:
    """(n, H, W, 3) uint8."""
    return np.stack([read_frame(path, (32, 16)).permute(1, 2, 0).numpy() for path in tracklet.frames])


@pytest.fixture(scope="module")
def onnx_path(trained_run, tmp_path_factory) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert main(argv(trained_run / "best.pth", path)) == 0
    return path


@pytest.mark.slow
def test_the_files_hold_the_facts_and_no_names_of_this_machine(onnx_path, trained_run, tmp_path):
    assert main(argv(trained_run / "best.pth", tmp_path / "model.pt2")) == 0
    facts = pt2_facts(tmp_path / "model.pt2")
    content = onnx_path.read_bytes()
    in_onnx = {p.key: p.value for p in pytest.importorskip("onnx").load_from_string(content).metadata_props}
    assert {key: in_onnx[key] for key in facts} == facts
    assert json.loads(facts["cameras"]) == {"1": 0, "2": 1, "3": 2}
    expected = {
        "frame_size": "[32, 16]", "clip_length": "2", "other_clip_lengths": "accepted", "unknown_camera": "6",
        "feature_length": "192", "unit_length": "true", "features": "before the necks", "precision": "float32",
        "pixel_mean": "[0.485, 0.456, 0.406]", "pixel_std": "[0.229, 0.224, 0.225]", "torch": torch.__version__,
        "weight_file": "best.pth", "network": "ViT-B-16, TMD",
        "weight_sha256": hashlib.sha256((trained_run / "best.pth").read_bytes()).hexdigest(),
    }  # fmt: skip
    assert {key: facts[key] for key in expected} == expected
    assert facts["sampling"].startswith("cut the frames") and facts["project"].startswith("TF-CLIP, commit ")
    for place in (str(ROOT), str(trained_run), tempfile.gettempdir() + "/", sys.prefix):
        assert place.encode() not in content + (tmp_path / "model.pt2").read_bytes()


@pytest.mark.slow
def test_the_command_says_size_latency_and_difference_and_nothing_else(trained_run, tmp_path):
    """In a process of its own: exporters also write to the screen from C++."""
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "-m", "processor.export", *argv(trained_run / "best.pth", tmp_path / "m.onnx", "--half")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and re.sub(r"check:[^\r\n]*batch/s\]|\s", "", done.stderr) == ""
    pattern = (
        r"wrote \S+m\.onnx: \d\.\d MB, ONNX, opset 20, float16\n"
        r"takes clips of any number of frames of 32 x 16 pixels, trained with 2 frames, and the number of one of 3 "
        r"cameras\ngives features of 192 numbers, at most (\S+) of their length from the model's \(allowed: (\S+)\) in "
        r"5 batches of random frames\n"
        r"latency of one clip of 2 frames, CPU, \d+ threads, median: \d+\.\d ms, of the model \d+\.\d ms\n"
        r"CPUs have few float16 kernels: .*\n"
    )
    found = re.fullmatch(pattern, done.stdout)
    assert found and 1e-5 < float(found[1]) < float(found[2]) < 0.01
    assert [path.name for path in contents(tmp_path)] == ["m.onnx"]


@pytest.mark.slow
def test_key_value_pairs_take_the_place_of_the_trainings_config(trained_run, tmp_path):
    weight = tmp_path / "weights.pth"
    torch.save(load(trained_run / "best.pth")["model"], weight)
    more = ["TEST.NECK_FEAT", "after", "TEST.FEAT_NORM", "False", "TEST.SAMPLING", "first", "TEST.PRECISION", "fp16"]
    more += ["MODEL.MEMORY", "text", "--config_file", str(trained_run / "config.yml")]
    assert main(argv(weight, tmp_path / "model.pt2", *more)) == 0
    facts = pt2_facts(tmp_path / "model.pt2")
    assert facts["features"] == "after the necks" and facts["unit_length"] == "false"
    assert facts["sampling"].startswith("one clip") and facts["output"].endswith("each")


def test_the_script_of_the_page_is_short():
    lines = [line for line in SCRIPT.splitlines() if line.strip()]
    assert 5 < len(lines) <= 20
    assert set(re.findall(r"^(?:import|from) (.+)$", SCRIPT, re.M)) == {"json", "sys", "numpy as np", "onnxruntime"}


@pytest.mark.parametrize("sampling", ["dense", "first"])
@pytest.mark.parametrize("count", [1, 3, 4, 9, 12, 14])
def test_the_script_of_the_page_cuts_clips_as_the_file_says(tmp_path, monkeypatch, capsys, sampling, count):
    frames, given = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3), []
    np.save(tmp_path / "frames.npy", frames)
    known = facts.tracklet_facts(sampling, {}, 0, "before", 2, True) | {"clip_length": "4"}

    class Session:
        def __init__(self, path):
            pass

        def get_modelmeta(self):
            return SimpleNamespace(custom_metadata_map=known)

        def run(self, outputs, inputs):
            given.append(inputs)
            return [np.zeros((1, 2))]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.setattr(sys, "argv", ["feature.py", "m.onnx", str(tmp_path / "frames.npy")])
    exec(SCRIPT, {})
    clips = dense_clips(count, 4) if sampling == "dense" else [first_per_chunk(count, 4)]
    assert np.array_equal(given[0]["frames"], frames[np.array(clips)]) and given[0]["num_clips"] == [len(clips)]
    assert capsys.readouterr().out == "[0.0, 0.0]\n"


@pytest.mark.slow
def test_the_script_of_the_page_gives_the_features_of_a_test(onnx_path, trained_run, tiny_mars, tmp_path):
    """With numpy, onnxruntime and Python's own library alone."""
    packages = tmp_path / "packages"
    packages.mkdir()
    site = Path(importlib.util.find_spec("onnxruntime").origin).parents[1]
    for name in ONLY:
        if (site / name).exists():
            (packages / name).symlink_to(site / name)
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")
    environment = {"PYTHONPATH": str(packages), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}

    def python(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-s", "-S", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    assert "No module named 'torch'" in python("-c", "import numpy, onnxruntime; import torch").stderr
    splits = load_splits("MARS", str(tiny_mars))
    tracklets = splits.query + splits.gallery
    tested = l2_normalize(np.load(trained_run / "features.npz")["features"])
    assert len({len(tracklet.frames) for tracklet in tracklets}) > 1  # with a last clip that is full, and not
    chosen = {len(tracklet.frames): row for row, tracklet in enumerate(tracklets)}
    found = []
    for row in chosen.values():
        np.save(tmp_path / "frames.npy", frames_of(tracklets[row]))
        done = python("run.py", str(onnx_path), "frames.npy", splits.cameras[tracklets[row].camid])
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert np.abs(np.array(found) - tested[list(chosen.values())]).max() < 1e-4


@pytest.mark.parametrize(
    ("out", "more", "line"),
    [
        ("m.bin", ["--format", "onnx"], r"--out \S+m\.bin: the name of a file in --format onnx ends in \.onnx"),
        ("m.pt2", ["--format", "onnx"], r"ends in \.onnx"),
        ("m", ["--format", "pt2"], r"ends in \.pt2"),
        ("m.onnx", ["--format", "tflite"], r"argument --format: invalid choice: 'tflite' \(choose from .*onnx.*pt2"),
        ("m.onnx", ["--opset", "17"], "--opset must lie between 18 and 25, found 17"),
        ("m.onnx", ["--opset", "99"], "--opset must lie between 18 and 25, found 99"),
        ("m.onnx", ["--opset", "new"], "argument --opset: invalid int value: 'new'"),
        ("m.pt2", ["--opset", "20"], "--opset 20 belongs to --format onnx, found pt2"),
        ("no/m.onnx", [], "folder .*no does not exist; make it first"),
        ("folder.onnx", [], r"--out \S+folder\.onnx is a folder; name a file"),
        ("m.pt2", ["TEST.NECK_FEET", "after"], r"unknown key TEST\.NECK_FEET: did you mean TEST\.NECK_FEAT\?"),
        ("m.pt2", ["TEST.NECK_FEAT", "beside"], "TEST.NECK_FEAT must be one of before, after, found 'beside'"),
        ("m.pt2", ["--config_file", "none.yml"], "config file none.yml does not exist"),
        ("m.pt2", ["--weight", "none.pth"], "weight file none.pth does not exist"),
        ("m.pt2", ["--halve"], "unrecognized arguments: --halve"),
        ("m.pt2", ["MODEL.ENCODER.WIDTH", "128"], "name the config of its training with --config_file"),
    ],
)
def test_faults_of_the_command_line_are_one_line(trained_run, tmp_path, caplog, out, more, line):
    (tmp_path / "folder.onnx").mkdir()
    file_format = [] if "--format" in more else ["--format", out.rpartition(".")[2]]
    weight = ["--weight", str(trained_run / "best.pth")]
    found = one_error(caplog, main, [*weight, *file_format, "--out", str(tmp_path / out), *more])
    assert re.search(line, found), found
    assert contents(tmp_path) == {}


def test_faults_of_weight_files_are_one_line(tmp_path, caplog):
    model = tiny_model()
    torch.save({name: value for name, value in model.encoder.vit.state_dict().items()}, tmp_path / "clip.pth")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, line in (
        ("clip", "clip.pth holds only CLIP's encoder; features need weights of a trained TF-CLIP"),
        ("weights", "weights.pth does not say how it was trained: name its config with --config_file"),
        ("text", "text.pth cannot be read; it is truncated or not a weight file"),
    ):
        assert line in one_error(caplog, main, argv(tmp_path / f"{name}.pth", tmp_path / "m.pt2"))
    assert len(contents(tmp_path)) == 3


def test_packages_that_are_absent_are_named(trained_run, tmp_path, caplog, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name.startswith("onnx") else found(name, *more)
    )
    line = one_error(caplog, main, argv(trained_run / "best.pth", tmp_path / "m.onnx"))
    assert line.endswith(
        "--format onnx needs onnx, onnxscript, onnxruntime: pip install onnx onnxscript onnxruntime; --format pt2 "
        "needs torch alone"
    )


def test_a_folder_that_takes_no_file_is_named(trained_run, tmp_path, caplog, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    line = one_error(caplog, main, argv(trained_run / "best.pth", tmp_path / "m.onnx"))
    assert line.endswith(f"--out {tmp_path} cannot be written (Permission denied)")


def test_another_opset_is_advised_only_where_the_opset_is_at_fault(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "m.onnx").write_bytes(b"no file of ONNX")
    with pytest.raises(InputError, match=r"cannot run the file \(.*\)$"):
        onnx_file.load(tmp_path / "m.onnx")

    def refuse(*args, **options):
        raise RuntimeError("ai.onnx opset 27 is under development")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(InputError, match=r"opset 27 is under development\); take a lower --opset, or a newer onnxrunt"):
        onnx_file.load(tmp_path / "m.onnx")


def test_a_typo_is_answered_without_torch(tmp_path):
    (tmp_path / "w").touch()
    code = (
        "import sys; from processor.export.command import main; code = main(sys.argv[1:]); "
        "print(code, {'torch', 'timm', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, *argv(tmp_path / "w", tmp_path / "m.pt2", "TEST.NECK_FEET", "after")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 set()" and "did you mean TEST.NECK_FEAT?" in done.stderr

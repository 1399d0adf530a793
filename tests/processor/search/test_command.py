"""python -m processor.search: table, picture, and one line for what does not fit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import load_splits
from processor import extract
from processor.extractor import load_table
from processor.search import command, faiss_index
from processor.search.command import main
from tests.conftest import ROOT, load, one_error, read_csv
from utils.metrics import euclidean_distances


@pytest.fixture(scope="module")
def own(trained_run, tiny_mars, tmp_path_factory):
    """A folder with gallery/ and query/ as <person>/<camera>_<tracklet>/, and the features of both."""
    folder = tmp_path_factory.mktemp("own")
    splits = load_splits("MARS", str(tiny_mars))
    for name, tracklets in (("query", splits.query[:3]), ("gallery", splits.gallery)):
        for number, t in enumerate(tracklets):
            place = folder / name / splits.person(t.pid) / f"{splits.camera(t.camid)}_{number:03d}"
            place.mkdir(parents=True)
            for frame in t.frames:
                os.symlink(frame, place / os.path.basename(frame))
        argv = ["--weight", f"{trained_run}/best.pth", "--input", f"{folder}/{name}", "--out", f"{folder}/{name}.npz"]
        assert extract.main(argv) == 0
    return folder


def argv(own, query="query", **options):
    features = options.pop("features", own / "gallery.npz")
    more = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["--features", str(features), "--query", str(own / query), *more]


def expected(own, top):
    query, gallery = load_table(own / "query.npz"), load_table(own / "gallery.npz")
    dist = euclidean_distances(query.features, gallery.features)
    return query, gallery, np.argsort(dist, axis=1, kind="stable")[:, :top], np.sort(dist, axis=1)[:, :top]


@pytest.mark.parametrize("query", ["query", "query.npz"])
def test_the_nearest_of_a_folder_and_of_its_features_are_the_same(own, tmp_path, capsys, query):
    assert main(argv(own, query, top=3, out=tmp_path / "found")) == 0
    queries, gallery, rows, dist = expected(own, 3)
    table = read_csv(tmp_path / "found" / "search.csv")
    assert list(table[0]) == "query query_person query_camera rank name person camera frames distance".split()
    assert [row["query"] for row in table[::3]] == queries.names.tolist()
    assert [row["rank"] for row in table] == ["1", "2", "3"] * len(queries.names)
    assert [row["name"] for row in table] == gallery.names[rows].ravel().tolist()
    assert [row["person"] for row in table] == gallery.persons[rows].ravel().tolist()
    assert [int(row["frames"]) for row in table] == gallery.frames[rows].ravel().tolist()
    assert np.abs(np.array([float(row["distance"]) for row in table]) - dist.ravel()).max() < 1e-3
    screen = capsys.readouterr().out
    assert f"   1  {float(table[0]['distance']):.4f}  {table[0]['name']}  person {table[0]['person']}, camera" in screen
    with Image.open(tmp_path / "found" / "search.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    right = (gallery.persons[rows] == queries.persons[:, None]).sum()
    border = 108 * 204 - 96 * 192
    counts = [int((pixels == rgb).all(axis=1).sum()) for rgb in ((43, 92, 138), (26, 150, 65), (215, 25, 28))]
    assert counts == [len(rows) * border, right * border, (rows.size - right) * border]


def test_the_picture_is_left_out_where_frames_are_gone(own, tmp_path, capsys, trained_run):
    table, out = load_table(own / "gallery.npz"), tmp_path / "found"
    assert main(argv(own, out=out)) == 0 and (out / "search.png").exists()
    np.save(tmp_path / "g.npy", table.features)  # features alone
    assert main(argv(own, features=tmp_path / "g.npy", weight=trained_run / "best.pth", out=out)) == 0
    assert "no search.png: " in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["search.csv"]
    rows = read_csv(out / "search.csv")
    assert {row["name"] for row in rows} <= {str(row) for row in range(len(table.names))}
    assert {row["person"] for row in rows} == {row["frames"] for row in rows} == {""}


def test_a_picture_that_cannot_be_read_costs_the_sheet_alone(own, tmp_path, caplog):
    shutil.copytree(own, tmp_path / "own")
    broken = load_table(tmp_path / "own" / "gallery.npz").pictures[0]
    Path(broken).write_bytes(b"no image")
    assert main(argv(tmp_path / "own", top=99, out=tmp_path / "found")) == 0
    assert f"no search.png: frame {broken} cannot be decoded" in caplog.text
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["search.csv"]


def test_crops_that_were_not_kept_are_said_to_be(own, trained_run, tmp_path, capsys):
    frame = next((own / "query").rglob("*.jpg"))
    shutil.copy(frame, tmp_path / "1.jpg")
    (tmp_path / "list.csv").write_text("tracklet,frame,x,y,w,h\na,1.jpg,0,0,8,16\n")
    command_line = ["--weight", f"{trained_run}/best.pth", "--input", f"{tmp_path}/list.csv", "--out"]
    assert extract.main([*command_line, f"{tmp_path}/g.npz"]) == 0
    assert main(argv(own, features=tmp_path / "g.npz", out=tmp_path / "found")) == 0
    assert "are not at hand; python -m processor.extract keeps the crops of a list in" in capsys.readouterr().out


def test_a_query_may_have_keys_and_a_config_of_its_own(own, trained_run, tmp_path, caplog, capsys):
    frame = next((own / "query").rglob("*.jpg"))
    (tmp_path / "list.csv").write_text(f"tracklet,frame\na,{frame}\n")
    assert "DATASETS.OUTSIDE allow admits such files" in one_error(caplog, main, argv(own, tmp_path / "list.csv"))
    found = []
    for more in (["DATASETS.OUTSIDE", "allow"], ["--config_file", str(trained_run / "config.yml")]):
        query = tmp_path / "list.csv" if more[0] == "DATASETS.OUTSIDE" else "query"
        assert main([*argv(own, query), *more]) == 0
        found.append(capsys.readouterr().out)
    assert "1 query against" in found[0] and "3 queries against" in found[1]
    line = one_error(caplog, main, [*argv(own), "TEST.NECK_FEAT", "after"])
    assert "with TEST.NECK_FEAT before, " in line
    assert "did you mean TEST.NECK_FEAT?" in one_error(caplog, main, [*argv(own), "TEST.NECK_FEET", "after"])
    line = one_error(caplog, main, [*argv(own, "query.npz"), "TEST.NECK_FEAT", "after"])
    assert "belong to a query of frames" in line


def test_a_folder_may_be_moved_with_its_features(own, tmp_path):
    shutil.copytree(own, tmp_path / "moved", symlinks=True)
    assert all(map(os.path.isfile, load_table(tmp_path / "moved" / "gallery.npz").pictures))
    assert load_table(tmp_path / "moved" / "gallery.npz").pictures[0].startswith(f"{tmp_path}/moved/")


def test_each_index_gives_the_same_in_a_small_gallery(own, tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss")
    content = (own / "gallery.npz").read_bytes()
    (tmp_path / "g.npz").write_bytes(content)
    tables = []
    for index in ("exact", "faiss", "auto"):
        assert main(argv(own, features=tmp_path / "g.npz", index=index, out=tmp_path / index)) == 0
        tables.append((tmp_path / index / "search.csv").read_text())
    assert tables[0] == tables[1] == tables[2]
    monkeypatch.setattr(command, "FAISS_FROM", 2)
    capsys.readouterr()
    assert main(argv(own, features=tmp_path / "g.npz")) == 0
    assert "by FAISS" in capsys.readouterr().out
    monkeypatch.setattr(faiss_index, "find_spec", lambda name: None)
    assert main(argv(own, features=tmp_path / "g.npz")) == 0
    assert "each compared with all" in capsys.readouterr().out


def test_many_queries_are_cut_short_on_the_screen_alone(own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_ON_SCREEN", 1)
    assert main(argv(own, "query.npz", top=1)) == 0
    assert capsys.readouterr().out.count(":\n") == 3
    assert main(argv(own, "query.npz", top=1, out=tmp_path)) == 0
    assert "and 2 more queries in search.csv" in (screen := capsys.readouterr().out) and screen.count(":\n") == 1


@pytest.mark.slow
def test_a_mistyped_option_is_answered_without_torch():
    code = (
        "import sys; from processor.search.command import main; code = main('--features g.npz --qurey q'.split()); "
        "print(code, {'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 set()" and "the following arguments are required: --query" in done.stderr


def test_what_does_not_fit_is_one_line(own, trained_run, tmp_path, caplog, monkeypatch):
    def refusal(*args, **options):
        return one_error(caplog, main, argv(own, *args, **options))

    assert "--query" in (line := refusal("nowhere")) and "nowhere does not exist; name a folder" in line
    assert "none.npz does not exist; python -m processor.extract writes such" in refusal(features=tmp_path / "none.npz")
    assert "command line: --top 0 must be 1 or more" in refusal(top=0)
    (tmp_path / "x.npz").write_bytes(b"broken")
    assert "x.npz cannot be read as a file of features" in refusal(features=tmp_path / "x.npz")
    assert "x.npz cannot be read as a file of features" in refusal(tmp_path / "x.npz")
    assert "camera 'roof' is unknown to the model" in refusal(camera="roof")
    assert "--camera and KEY VALUE belong to a query of frames" in refusal("query.npz", camera="1")
    other = load(trained_run / "best.pth")
    other["model"]["neck_g.weight"] += 1
    torch.save(other, tmp_path / "other.pth")
    assert "other.pth (sha256 " in (line := refusal(weight=tmp_path / "other.pth")) and "is not the weight file" in line
    assert "none.pth does not exist; name the weights of the gallery with" in refusal(weight=tmp_path / "none.pth")
    command_line = ["--weight", str(tmp_path / "other.pth"), "--input", str(own / "query"), "--out"]
    assert extract.main([*command_line, str(tmp_path / "q.npz")]) == 0
    assert "gallery.npz is of other weights than " in refusal(tmp_path / "q.npz")
    np.save(tmp_path / "narrow.npy", np.ones((2, 3), np.float32))
    assert "features per tracklet, " in (line := refusal(tmp_path / "narrow.npy")) and line.endswith("not of one model")
    np.save(tmp_path / "g.npy", load_table(own / "gallery.npz").features)
    assert "g.npy does not say what weights it is from: name them with" in refusal(features=tmp_path / "g.npy")
    (tmp_path / "file").write_text("")
    assert "file is a file; name a folder" in refusal(out=tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in refusal(tmp_path / "empty")
    monkeypatch.setattr(faiss_index, "find_spec", lambda name: None)
    assert "--index faiss needs FAISS: pip install faiss-cpu" in refusal(index="faiss")

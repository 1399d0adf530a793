"""The synthetic MARS set: its layout, its determinism, and that neither colour nor a rerun is a short cut."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from datasets.synthetic.command import main, write_mars
from datasets.synthetic.walks import Plan, identities, plan_tracklets, render
from tests.datasets.synthetic.test_synthetic_layouts import TINY, TINY_WORDS, TWO_CAMERAS, contents
from utils.errors import InputError
from utils.metrics import euclidean_distances, evaluate_ranking, l2_normalize

TINY = TINY | TWO_CAMERAS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "mars"
    write_mars(root, workers=0, **TINY)
    return root


def table(root: Path, split: str) -> np.ndarray:
    return loadmat(root / "info" / f"tracks_{split}_info.mat")[f"track_{split}_info"]


def stripe_features(means: np.ndarray, stripes: int) -> np.ndarray:
    """Mean RGB of horizontal stripes of (n, H, W, 3) mean frames, (n, 3 * stripes)."""
    parts = [part.mean(axis=(1, 2)) for part in np.array_split(means, stripes, axis=1)]
    return np.concatenate(parts, axis=1)


def test_the_record_is_the_plan_alone(tiny):
    plan = {name: list(value) if isinstance(value, tuple) else value for name, value in TINY.items()}
    assert json.loads((tiny / "synthetic.json").read_text())["arguments"] == {"version": 2, **plan}


@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_and_tables_describe_the_files(tiny, split):
    names = (tiny / "info" / f"{split}_name.txt").read_text().splitlines()
    assert sorted(names) == sorted(path.name for path in (tiny / f"bbox_{split}").rglob("*.jpg"))
    rows = table(tiny, split)
    assert rows.dtype == np.int32
    assert rows[0, 0] == 1 and rows[-1, 1] == len(names)
    assert (rows[1:, 0] == rows[:-1, 1] + 1).all()
    starts = []
    for first, last, pid, camera in rows:
        stem = "00-1" if pid == -1 else f"{pid:04d}"
        block = names[first - 1 : last]
        starts.append(block[0][:11])
        assert [name[:6] for name in block] == [f"{stem}C{camera}"] * len(block)
        assert [name[6:] for name in block] == [f"{block[0][6:11]}F{n:03d}.jpg" for n in range(1, len(block) + 1)]
        assert all((tiny / f"bbox_{split}" / stem / name).is_file() for name in block)
        assert TINY["frames"][0] <= len(block) <= TINY["frames"][1]
    assert len(set(starts)) == len(starts)
    with Image.open(tiny / f"bbox_{split}" / names[-1][:4] / names[-1]) as frame:
        assert (frame.height, frame.width, frame.mode) == (*TINY["size"], "RGB")


def test_every_query_has_a_match_in_another_camera(tiny):
    rows, query = table(tiny, "test"), loadmat(tiny / "info" / "query_IDX.mat")["query_IDX"]
    assert query.dtype == np.uint16 and query.shape == (1, TINY["test_ids"] * TINY["cameras"])
    assert (np.diff(query[0].astype(int)) > 0).all()
    for _, _, pid, camera in rows[query[0] - 1]:
        assert pid > 0
        assert ((rows[:, 2] == pid) & (rows[:, 3] != camera)).any()
    assert len({(pid, camera) for _, _, pid, camera in rows[query[0] - 1]}) == query.size


def test_identities_are_disjoint_and_junk_and_distractors_are_test_only(tiny):
    train, test = set(table(tiny, "train")[:, 2]), set(table(tiny, "test")[:, 2])
    assert len(train) == TINY["train_ids"] and not train & test
    assert {-1, 0} <= test and len(test) == TINY["test_ids"] + 2
    assert (tiny / "bbox_test" / "00-1").is_dir() and (tiny / "bbox_test" / "0000").is_dir()


def test_junk_boxes_hold_two_and_distractors_nobody_known():
    plan = Plan()
    tracks = plan_tracklets(plan)
    known = set(identities(0, 0, plan.train_ids)) | set(identities(0, 1, plan.test_ids))
    assert len(known) == plan.train_ids + plan.test_ids and plan.test_ids * plan.cameras >= 90  # queries
    assert {len(track.people) for track in tracks if track.pid == -1} == {1, 2}
    assert {len(track.people) for track in tracks if track.pid == 0} == {0, 1}
    assert not known & {person for track in tracks if track.pid <= 0 for person in track.people}


def test_the_legs_walk():
    plan = Plan(frames=(8, 8), size=(128, 64))
    still = [track for track in plan_tracklets(plan) if track.pid == 0 and not track.people][0]
    walker = [track for track in plan_tracklets(plan) if track.pid == 1 and track.camera == still.camera][0]

    def leg_change(track) -> float:
        legs = np.stack(render(track, plan)).astype(float)[:, 75:115, 12:52]
        return float(np.abs(np.diff(legs, axis=0)).mean())

    assert leg_change(walker) > 1.5 * leg_change(still)


def test_cameras_differ_in_colour():
    plan = Plan(frames=(2, 2), cameras=6)
    tracks = plan_tracklets(plan)
    colours = []
    for camera in range(1, 7):
        frames = [render(track, plan) for track in tracks if track.camera == camera and 1 <= track.pid <= 4]
        colours.append(np.mean(np.concatenate(frames), axis=(0, 1, 2)))
    assert min(np.abs(a - b).max() for a, b in combinations(colours, 2)) > 4


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128)])
def test_all_frame_sizes_draw(size):
    plan = Plan(frames=(1, 1), size=size)
    frame = render(plan_tracklets(plan)[0], plan)[0]
    assert frame.shape == (*size, 3) and frame.dtype == np.uint8 and frame.std() > 15


@pytest.fixture(scope="module")
def gallery() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean frames (n, H, W, 3), persons, cameras and query rows of a test split of 16 identities, without junk."""
    plan = Plan(test_ids=16, frames=(2, 2), size=(64, 32))
    tracks = [track for track in plan_tracklets(plan) if track.split == "test" and track.pid != -1]
    pids, cameras = np.array([(track.pid, track.camera) for track in tracks]).T
    query = np.flatnonzero([track.pid > 0 and track.number == 1 for track in tracks])
    return np.array([np.mean(render(track, plan), axis=0) for track in tracks]), pids, cameras, query


@pytest.mark.parametrize("stripes", [6, 8])
@pytest.mark.parametrize("normalize", [l2_normalize, np.asarray])
def test_colour_alone_does_not_identify(gallery, stripes, normalize):
    means, pids, cameras, query = gallery
    features = normalize(stripe_features(means, stripes))
    distances = euclidean_distances(features[query], features)
    assert evaluate_ranking(distances, pids[query], pids, cameras[query], cameras)["mAP"] <= 0.40


def test_other_arguments_need_overwrite(tmp_path, capsys):
    root = tmp_path / "mars"
    write_mars(root, workers=0, **TINY)
    before = contents(root)
    assert main(["--root", str(root), "--cameras", "2", *TINY_WORDS, "--seed", "6"]) == 2
    assert contents(root) == before
    assert len(capsys.readouterr().err.splitlines()) == 1
    write_mars(root, workers=0, overwrite=True, **TINY | {"seed": 6})
    first = "bbox_train/0001/0001C1T0001F001.jpg"
    assert contents(root)[first] != before[first]  # another seed gives other people
    assert [path.name for path in tmp_path.iterdir()] == ["mars"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(InputError, match="synthetic"):
        write_mars(tmp_path / "mine", workers=0, overwrite=overwrite, **TINY)
    assert contents(tmp_path) == {"mine/thesis.txt": b"do not delete"}

"""Embedding, distances and ranking put together: batches, cameras, protocols, files."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import build_memory_loader, build_test_loader, load_splits
from datasets.clips.sampling import dense_clips
from datasets.clips.transforms import Normalize
from datasets.frames.reader import read_frame
from datasets.tracklet import ReIDSplits, Tracklet
from model import build_model
from model.clip_memory import build_clip_memory
from processor.evaluation.contact_sheet import save_contact_sheet
from processor.evaluation.evaluator import evaluate, rank_tracklets
from processor.evaluation.reports import log_results, log_table, save_camera_pairs, save_features, save_ranks
from processor.protocol import EvalProtocol
from processor.runtime import Runtime
from processor.training.memory import compute_tracklet_features
from tests.conftest import read_csv, tiny_cfg
from tests.tolerance import RN50_LAYERS, RN50_SUM, TINY_LAYERS, TINY_SUM, approx, assert_close
from utils.errors import InputError

NAMED = ReIDSplits((), (), (), 0, 2, False, persons={1: "Ann"}, cameras=("gate", "hall"))
NORMALIZE = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
RUNTIME = Runtime(torch.device("cpu"), None, NORMALIZE)


@pytest.fixture
def tiny(tiny_mars):
    def build(**overrides):
        cfg, splits = tiny_cfg(**overrides), load_splits("MARS", str(tiny_mars))
        torch.manual_seed(0)
        return cfg, splits, build_model(cfg, splits.num_classes, splits.num_cameras).eval()

    return build


def by_hand(cfg, model, tracklets, use_camera=True):
    """Mean clip feature of each tracklet, one clip at a time."""
    means = []
    for t in tracklets:
        frames = torch.stack([read_frame(path, cfg.INPUT.SIZE_TEST) for path in t.frames])  # (n, 3, H, W)
        clips = NORMALIZE(torch.stack([frames[ids] for ids in dense_clips(len(t.frames), 2)]))
        camids = torch.full((len(clips),), t.camid)
        with torch.no_grad():
            pairs = [(c[None], k[None]) for c, k in zip(clips, camids)]
            features = [model.embed(c, k) if use_camera else model.encode_memory(c) for c, k in pairs]
        means.append(torch.cat(features).mean(dim=0))
    return torch.stack(means)


@pytest.mark.parametrize("frames_per_batch", [2, 7, 512])
def test_packed_passes_equal_one_clip_at_a_time(tiny, frames_per_batch):
    """Several tracklets per pass, tracklets split over passes, each clip with its own camera."""
    cfg, splits, model = tiny(TEST__FRAMES_PER_BATCH=frames_per_batch)
    tracklets = splits.query + splits.gallery
    build_loader = partial(build_test_loader, cfg, sampling="dense")
    protocol = EvalProtocol("MARS", "dense", gallery_includes_query=True)
    evaluation = evaluate(model, build_loader, tracklets, len(splits.query), protocol, RUNTIME)
    assert_close(evaluation.features, by_hand(cfg, model, tracklets), TINY_SUM, TINY_LAYERS)


def test_clip_memory_is_the_identity_mean_of_tracklet_means(tiny):
    cfg, splits, model = tiny(TEST__FRAMES_PER_BATCH=5)
    pids = torch.tensor([t.pid for t in splits.train])
    found = compute_tracklet_features(model, partial(build_memory_loader, cfg, splits), splits.train, RUNTIME)
    memory = build_clip_memory(found, pids, splits.num_classes)
    features = by_hand(cfg, model, splits.train, use_camera=False)
    for label in range(splits.num_classes):
        assert_close(memory[label], features[pids == label].mean(dim=0), TINY_SUM, TINY_LAYERS)


def test_the_pass_over_training_tracklets_changes_nothing_in_an_encoder_with_batch_norm(tiny):
    sizes = {f"MODEL__ENCODER__{key}": 0 for key in ("WIDTH", "DEPTH", "HEADS", "PATCH", "EMBED")}
    cfg, splits, cnn = tiny(MODEL__NAME="RN50", MODEL__STRIDE_SIZE="[16, 16]", MODEL__SIE_CAMERA=False, **sizes)
    cnn.train()
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    tracklets = splits.train[:2]
    found = compute_tracklet_features(cnn, partial(build_test_loader, cfg, sampling="dense"), tracklets, RUNTIME)
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    assert_close(found, by_hand(cfg, cnn, tracklets, use_camera=False), RN50_SUM, RN50_LAYERS)


def toy():
    """Two queries and three gallery items on a circle: a person per 90 degrees, distractor 0 in between."""
    angles = np.deg2rad([0, 90, 10, 80, 44])
    features = np.stack([3 * np.cos(angles), 3 * np.sin(angles)], axis=1).astype(np.float32)
    pids, cams = [1, 2, 1, 2, 0], [0, 0, 1, 1, 1]
    return features, [Tracklet((f"{i}.jpg",), pid, cam) for i, (pid, cam) in enumerate(zip(pids, cams))]


def ranked(with_queries, **protocol):
    """The evaluation of `toy` with or without queries in the gallery."""
    return rank_tracklets(*toy(), 2, EvalProtocol("toy", "dense", with_queries, **protocol))


def test_gallery_with_and_without_queries():
    kept, out = ranked(True), ranked(False)
    assert (kept.metrics["num_gallery"], out.metrics["num_gallery"]) == (5, 3)
    assert kept.metrics["mAP"] == out.metrics["mAP"] == 1.0
    assert kept.gallery[:2] == kept.query and out.gallery == tuple(toy()[1][2:])
    assert kept.summary()["protocol"]["gallery_includes_query"] is True


def test_normalisation_is_applied_once_and_can_be_switched_off():
    on, off = ranked(False), ranked(False, feat_norm=False)
    # Distances come from squares that cancel: |a|^2 + |b|^2 - 2ab, up to 36.
    assert_close(off.dist_QG**2, 9 * on.dist_QG**2, terms=4, scale=36)
    np.testing.assert_array_equal(on.features, toy()[0])  # saved features are raw
    assert on.dist_QG[0, 0] ** 2 == approx(4 * np.sin(np.deg2rad(5)) ** 2, terms=4, scale=4)


def test_re_ranking_replaces_the_distances():
    plain, reranked = ranked(True), ranked(True, re_ranking=(2, 1, 0.3))
    assert not np.allclose(plain.dist_QG, reranked.dist_QG)
    assert reranked.summary()["protocol"]["re_ranking"] == {"k1": 2, "k2": 1, "lambda": 0.3}


def test_queries_without_match_are_counted_and_named_in_the_log(caplog):
    features, tracklets = toy()
    tracklets[1] = Tracklet(("1.jpg",), 9, 0)
    evaluation = rank_tracklets(features, tracklets, 2, EvalProtocol("toy", "dense", False))
    assert evaluation.summary()["num_query_without_match"] == 1
    log_results(evaluation, {"best": evaluation.metrics})
    assert caplog.messages[-1].startswith("1 of 2 queries have no true match")
    different = [Tracklet((f"{i}.jpg",), i, 0) for i in range(5)]
    with pytest.raises(InputError, match="toy cannot be scored: none of 2 queries"):
        rank_tracklets(features, different, 2, EvalProtocol("toy", "dense", False))


def test_saved_features_and_ranks_agree_with_the_evaluation(tmp_path):
    evaluation = ranked(False)
    save_features(tmp_path / "features.npz", evaluation)
    with np.load(tmp_path / "features.npz") as file:
        np.testing.assert_array_equal(file["features"], toy()[0])
        assert file["is_query"].tolist() == [True, True, False, False, False]
        assert file["pids"].tolist() == [1, 2, 1, 2, 0] and file["camids"].tolist() == [0, 0, 1, 1, 1]
    save_ranks(tmp_path / "ranks.csv", evaluation, NAMED)
    rows = read_csv(tmp_path / "ranks.csv")
    assert [(row["AP"], row["INP"], row["first_match"]) for row in rows] == [("1.000000", "1.000000", "1")] * 2
    assert [rows[0][f"top{k}"] for k in (1, 2, 3, 4)] == ["2.jpg", "4.jpg", "3.jpg", ""]
    assert [rows[0][name] for name in ("pid", "camera", "top1_pid", "top1_camera", "top2_pid")] == [
        "Ann", "gate", "Ann", "hall", "0",
    ]  # fmt: skip
    assert float(rows[0]["top1_distance"]) == pytest.approx(evaluation.dist_QG[0, 0], abs=1e-6)


def test_contact_sheet_frames_right_answers_green_and_wrong_ones_red(tmp_path):
    for number in range(5):
        Image.new("RGB", (16, 32), (10, 20, 30)).save(tmp_path / f"{number}.png")
    features, tracklets = toy()
    tracklets = [Tracklet((str(tmp_path / f"{i}.png"),), t.pid, t.camid) for i, t in enumerate(tracklets)]
    evaluation = rank_tracklets(features, tracklets, 2, EvalProtocol("toy", "dense", False))
    save_contact_sheet(tmp_path / "sheet.png", evaluation, NAMED, 2)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)
    counts = {c: int((pixels == np.array(rgb)).all(axis=1).sum()) for c, rgb in
              {"green": (26, 150, 65), "red": (215, 25, 28), "blue": (43, 92, 138)}.items()}  # fmt: skip
    border = 108 * 204 - 96 * 192
    assert counts == {"green": 2 * border, "red": 4 * border, "blue": 2 * border}


def test_results_are_logged_in_percent(caplog):
    scores = {"mAP": 0.5, "mINP": 0.125, "rank1": 0.25, "rank5": 1.0, "rank10": 1.0, "rank20": 1.0}
    ci95 = {"mAP": (0.4, 0.6126), "mINP": (0.1, 0.2), "rank1": (0, 1)}
    with caplog.at_level("INFO"):
        log_results(ranked(True), {"untrained": scores, "best": scores | {"ci95": ci95}})
    assert "2 queries against 5 gallery tracklets" in caplog.messages[0]
    assert caplog.messages[1].split() == ["mAP", "mINP", "Rank-1", "Rank-5", "Rank-10", "Rank-20"]
    assert caplog.messages[3].split() == ["best", "50.00", "12.50", "25.00", "100.00", "100.00", "100.00"]
    intervals = "mAP 50.00 [40.00, 61.26], mINP 12.50 [10.00, 20.00], Rank-1 25.00 [0.00, 100.00]"
    assert caplog.messages[4:] == [f"best, 95 % intervals: {intervals}"]  # an earlier run has none


def test_a_score_that_an_earlier_run_did_not_have_is_a_dash(caplog):
    with caplog.at_level("INFO"):
        log_table({"untrained": {"mAP": 0.25}})
    assert caplog.messages[-1].split() == ["untrained", "25.00", "-", "-", "-", "-", "-"]


def test_camera_pairs_are_written_by_name(tmp_path, caplog):
    with caplog.at_level("INFO"):
        save_camera_pairs(tmp_path / "pairs.csv", ranked(False), NAMED.cameras)
    # Both queries are in the first camera, all gallery items in the second.
    assert [tuple(row.values()) for row in read_csv(tmp_path / "pairs.csv")] == [
        ("gate", "gate", "0", "", ""), ("gate", "hall", "2", "1.000000", "1.000000"),
        ("hall", "gate", "0", "", ""), ("hall", "hall", "0", "", ""),
    ]  # fmt: skip
    assert caplog.messages[2].split() == ["gate", "-", "100.00"]


def test_the_query_itself_is_no_answer_when_cameras_do_not_count():
    evaluation = ranked(True, same_camera_filter=False)
    assert all(row not in ranking.order for row, ranking in enumerate(evaluation.rankings))
    assert len(evaluation.rankings[0].order) == 4

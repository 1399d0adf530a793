"""The page's content: every kind of data, hostile names, numbers by hand, a bound on its size."""

import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from datasets import find_dataset, load_splits
from datasets.bad_frames import BadFrames
from datasets.frames import FILES
from datasets.synthetic.command import write_set
from datasets.tracklet import ReIDSplits, Tracklet
from processor.ablation.paper import PAPER_ROWS
from processor.evaluation import RunPage, rank_tracklets, write_page
from processor.evaluation.html_report import content, figures, filmstrips, page
from processor.evaluation.html_report.filmstrips import FORMATS, make_strips
from processor.evaluation.html_report.run_files import read_ranks
from processor.evaluation.reports import save_camera_pairs, save_ranks
from processor.protocol import EvalProtocol
from tests.conftest import read_csv
from tests.processor.report import pages
from utils.errors import InputError
from utils.metrics import mean_intervals

NAMES = {
    "mars": "MARS", "lsvid": "LS-VID", "ilids": "iLIDS-VID", "market1501": "Market1501", "msmt17": "MSMT17",
    "folder": "folder", "manifest": "manifest", "video": "video",
}  # fmt: skip
HOSTILE = ('<script>alert("1")</script>', "a&b'\"`${x}", "</script><!--", "zwei\nZeilen", "\u2028", "Ünïcödé 人")


def evaluate(splits, dataset="toy", **choices):
    """A test with random features in which a person's tracklets are alike."""
    tracklets = (*splits.query, *splits.gallery)
    rng = np.random.default_rng(1)
    centres = {pid: rng.normal(size=8) for pid in sorted({t.pid for t in tracklets})}
    features = np.array([centres[t.pid] + rng.normal(size=8) for t in tracklets], np.float32)
    protocol = EvalProtocol(dataset, "dense", **{"gallery_includes_query": splits.gallery_includes_query} | choices)
    return rank_tracklets(features, tracklets, len(splits.query), protocol)


def make(folder, evaluation, splits, **more):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(evaluation.summary()))
    write_page(folder / "page.html", RunPage(folder, evaluation, splits, changes={}, **more))
    return folder / "page.html"


@pytest.fixture
def toy(tmp_path):
    """Two persons and a distractor in two cameras; every query but the last has a true match."""

    def tracklet(name, pid, camid, frames=3):
        paths = []
        for number in range(frames):
            paths.append(str(tmp_path / "data" / name / f"{number}.png"))
            os.makedirs(os.path.dirname(paths[-1]), exist_ok=True)
            Image.new("RGB", (8, 16), (40 * pid, 90 * number, 120)).save(paths[-1])
        return Tracklet(tuple(paths), pid, camid)

    def build(names=tuple("abcdef"), **more):
        a, b, c, d, e, f = (tracklet(name, *ids) for name, ids in zip(
            names, [(1, 0), (2, 1), (3, 0), (1, 1), (2, 0), (0, 1, 1)]
        ))  # fmt: skip
        options = {"num_classes": 0, "num_cameras": 2, "gallery_includes_query": False, "cameras": ("1", "2")}
        return ReIDSplits((), (a, b, c), (d, e, f), root=str(tmp_path / "data"), **options | more)

    return build


@pytest.mark.parametrize("layout", NAMES)
def test_every_kind_of_data_has_its_page(layout, tmp_path):
    few = {} if layout == "ilids" else {"cameras": 2, "tracklets": 2}
    write_set(tmp_path / "set", layout, workers=0, train_ids=2, test_ids=2, frames=(6, 6), size=(32, 16), seed=3, **few)
    cache = {"cache_dir": str(tmp_path / "cache")} if "cache_dir" in find_dataset(NAMES[layout]).options else {}
    splits = load_splits(NAMES[layout], str(tmp_path / "set"), **cache)
    evaluation = evaluate(splits, NAMES[layout], re_ranking=(3, 2, 0.3))
    made = make(tmp_path / "run", evaluation, splits)
    save_ranks(tmp_path / "ranks.csv", evaluation, splits)
    assert pages.rows(made) == pages.rows_of_csv(read_csv(tmp_path / "ranks.csv"))
    strips, data = pages.strips(made), pages.content(made)
    form = FORMATS[0]
    assert [strip.size for strip in strips] == [
        (form.height // 2 * min(form.frames, frames), form.height) for _, _, _, frames, _ in data["tracklets"]
    ]
    if layout in ("market1501", "msmt17"):
        assert {frames for _, _, _, frames, _ in data["tracklets"]} == {1}
    assert data["cameras"] == sorted({splits.camera(t.camid) if splits.cameras else "" for t in evaluation.tracklets})


def test_hostile_names_are_text(toy, tmp_path):
    byte = os.fsdecode(b"\xff")
    splits = toy(
        names=("a<b>", "b&amp;", 'c"', "d'`", f"e{byte}", "f\n"), persons=dict(zip((1, 2, 3, 0), HOSTILE)),
        cameras=HOSTILE[4:],
    )  # fmt: skip
    made = make(tmp_path / "run", evaluate(splits), splits, notes=[HOSTILE[0]], attention=[(*HOSTILE[:2], b"\x89PNG")])
    text, data = made.read_text(encoding="utf-8"), pages.content(made)
    assert text.count("<script") == 3 == text.count("</script>") and "<!--" not in text
    assert "alert(&#34;1&#34;)" in text
    assert set(HOSTILE[:3]) <= set(data["people"]) and "zwei\\nZeilen" in data["people"]
    assert "\\u2028" in data["cameras"] and "Ünïcödé 人" in data["cameras"]
    names = {t[0] for t in data["tracklets"]}
    assert {"a<b>/0.png", "e\\udcff/0.png", "f\\n/0.png"} <= names
    save_ranks(tmp_path / "ranks.csv", evaluate(splits), splits)
    assert "e\\udcff/0.png" in (tmp_path / "ranks.csv").read_text(encoding="utf-8")
    read_back = content.read_lists(read_ranks(tmp_path))
    assert {t.name for t in read_back.tracklets} == names


def test_data_without_cameras_and_a_query_without_a_match(toy, tmp_path):
    splits = toy(cameras=(), num_cameras=0)
    made = make(tmp_path / "run", evaluate(splits, same_camera_filter=False), splits)
    data, text = pages.content(made), made.read_text()
    assert data["cameras"] == [""] and "Camera pairs" not in text
    assert data["queries"][2][1:5] == [None, None, 0, 0] and [q[4] for q in data["queries"]] == [1, 1, 0]
    assert "1 of 3 queries have no true match" in text


def test_an_unreadable_frame_is_replaced_or_refused(toy):
    splits = toy()
    broken = splits.query[0].frames[1]
    os.unlink(broken)
    with pytest.raises(InputError, match="does not exist"):
        make_strips(splits.query, FILES, None, 10**6)
    bad_frames = BadFrames(5)
    strips, form = make_strips(splits.query, FILES, bad_frames, 10**6)
    assert list(bad_frames.files) == [broken] and form == FORMATS[0] and len(strips) == 3


def test_strips_take_the_cores_that_the_process_may_use(toy, monkeypatch):
    started = []
    pool = lambda count: started.append(count) or ThreadPoolExecutor(count)  # noqa: E731
    monkeypatch.setattr(filmstrips, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    make_strips(toy().query, FILES, None, 10**6)
    assert started == [3]


def test_strips_shrink_to_the_bytes_that_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(filmstrips, "_SAMPLE", 4)
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{n}.png") for n in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (16, 8, 3), np.uint8)).resize((64, 128)).save(path)
    tracklets = [Tracklet(tuple(rng.permutation(paths).tolist()), 1, 0) for _ in range(12)]
    sizes = []
    for most in (10**9, 60_000, 7_500):
        strips, form = make_strips(tracklets, FILES, None, most)
        assert sum(map(len, strips)) <= most and len(strips) == 12
        sizes.append(form)
    assert sizes[0] == FORMATS[0] and sizes == sorted(set(sizes), key=FORMATS.index) and len(sizes) == 3
    assert make_strips(tracklets, FILES, None, 1)[1] == FORMATS[-1]  # nothing smaller is there


def test_a_page_of_the_size_of_mars_stays_below_30_mb():
    """The strips by their bound in base64, the lists of 1,980 queries over 11,310 tracklets as they are written."""
    tracklets = [
        content.Shown(f"bbox_test/0002/0002C1T{n:04}F001.jpg", str(n % 626), str(n % 6), 60) for n in range(11_310)
    ]
    near = [
        tuple(content.Near((31 * q + 7 * n) % 11_310, 1 + 1e-6 * n, n < 3) for n in range(10)) for q in range(1_980)
    ]
    queries = [content.RankedQuery(n, 0.123456, 0.123456, 1, 9, near[n]) for n in range(1_980)]
    text = page._json(page._list_data(content.RankedLists(tracklets, queries, []), None))
    assert len(text) + 4 * page._STRIP_BYTES / 3 + 11_310 < 29e6  # the rest, charts and code, is below 0.3 MB


def test_the_curve_and_its_band_are_those_of_the_scores(toy):
    splits = toy()
    evaluation = evaluate(splits)
    firsts = [ranking.first_match for ranking in evaluation.rankings]
    curve = content.cmc_curve(firsts, 3)
    assert curve.values == pytest.approx(evaluation.metrics["cmc"])
    assert (curve.low[0], curve.high[0]) == evaluation.metrics["ci95"]["rank1"]
    hits = np.array([[first <= 2 for first in firsts if first]], float)
    assert (curve.low[1], curve.high[1]) == tuple(mean_intervals(hits)[0])
    assert content.cmc_curve([0, 0], 3) is None


def test_distances_count_the_ranked_pairs(toy):
    splits = toy()
    evaluation = evaluate(splits)
    distances = content.distance_densities(evaluation)
    assert (distances.num_true, distances.num_false) == (2, 7) and distances.sampled == 3
    width = np.diff(distances.edges)
    assert (distances.true * width).sum() == pytest.approx(1) == (distances.false * width).sum()
    pairs = evaluation.dist_QG[[0, 1], [0, 1]]
    inside = np.searchsorted(distances.edges, pairs, "right") - 1
    assert set(np.flatnonzero(distances.true)) == set(np.minimum(inside, len(width) - 1))


def test_camera_table_equals_the_file(toy, tmp_path):
    splits = toy(cameras=("1", "2", "3"), num_cameras=3)
    evaluation = evaluate(splits)
    save_camera_pairs(tmp_path / "camera_pairs.csv", evaluation, splits.cameras)
    now = content.camera_table(evaluation, splits.cameras)
    then = content.read_camera_table(read_csv(tmp_path / "camera_pairs.csv"))
    assert now.left_out == then.left_out == ["3"] and now.queries == then.queries == ["1", "2"]
    for ours, theirs in zip(now.cells, then.cells):
        for a, b in zip(ours, theirs):
            assert a.num_query == b.num_query and a.mAP == pytest.approx(b.mAP, abs=1e-6)


def test_the_map_is_the_same_each_time_and_shows_query_persons(tmp_path):
    rng = np.random.default_rng(0)
    query = tuple(Tracklet((f"q{n}",), n + 1, n % 2) for n in range(14))
    gallery = tuple(Tracklet((f"g{n}",), int(pid), int(n % 2)) for n, pid in enumerate(rng.integers(0, 15, 90)))
    splits = ReIDSplits((), query, gallery, 0, 2, False, cameras=("1", "2"))
    evaluation = evaluate(splits)
    first, again = (content.feature_map(evaluation, splits) for _ in range(2))
    assert first == again and len({point.person for point in first}) == 12
    assert "0" not in {point.person for point in first} and all(0 <= p.x <= 1 and 0 <= p.y <= 1 for p in first)
    chart, people, cameras = figures.map_chart(first)
    assert chart.count("<path") == len(first) and len(people) == 12 and len(cameras) == 2


def test_very_many_queries_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(content, "MOST_QUERIES", 3)
    row = dict.fromkeys(("query", "pid", "camera", "INP"), "") | {"first_match": "1"}
    lists = content.read_lists([row | {"AP": f"{n / 10}", "query": f"q{n}"} for n in range(9)])
    assert [query.ap for query in lists.queries] == [0, 0.4, 0.8]


def test_charts_stand_odd_numbers():
    for scores in ([], [math.nan], [1.0], [0.0, 0.5]):
        assert figures.ap_chart(scores).startswith("<svg")
    for series in ({"a": [(1, 0.0)]}, {"a": [(1, 2.0), (9, 2.0)]}, {"a": [(1, -1.0)], "b": [(2, 1e9)]}):
        assert figures.lines_chart("t", series, 9).count('class="line') == len(series)
    chart = figures.lines_chart("t", {"lr": [(1, 1e-6), (2, 5e-6)]}, 2, log_y=True)
    assert "1e-6" in chart and "nan" not in chart
    assert not re.search(r"nan|inf", figures.score_bar(100, None, None, 99.9))


def test_the_paper_stands_beside_the_same_test_alone():
    mars, same = find_dataset("MARS"), EvalProtocol("MARS", "dense", True)
    counts = dict(zip(("num_query", "num_gallery"), mars.official_test))
    assert page._paper(same, counts) == (mars.paper, "Paper: TF-CLIP (AAAI 2024) on MARS.")
    for field, value, words in (
        ("re_ranking", (20, 6, 0.3), "re-ranking"), ("ap", "trapezoid", "TEST.AP trapezoid"),
        ("left_out", "3 frames", "frames left out (DATASETS.EXCLUDE)"), ("sampling", "first", "first sampling"),
        ("same_camera_filter", False, "TEST.SAME_CAMERA_FILTER False"), ("feat_norm", False, "TEST.FEAT_NORM False"),
        ("neck_feat", "after", "TEST.NECK_FEAT after"),
    ):  # fmt: skip
        said = page._paper(replace(same, **{field: value}), counts)[1]
        assert said == f"The paper's row is not comparable: this test has {words}."
    assert "it stands for 1,980 queries" in page._paper(same, counts | {"num_gallery": 9_330})[1]


def test_a_score_on_an_edge_belongs_to_the_bar_above_it():
    chart = figures.ap_chart([n / 20 for n in range(21)])
    assert re.findall(r"%: (\d) quer", chart) == ["1"] * 19 + ["2"]


def test_papers_scores_agree_with_the_rows_of_the_ablation():
    rows = {row.config: row.scores for row in PAPER_ROWS}
    best = {"MARS": "table2_row6", "LS-VID": "table2_row6", "Market1501": "images_market1501_clipm_ssp"}
    best["MSMT17"] = "images_msmt17_clipm_ssp"
    for name, row in best.items():
        expected = dict(zip(("mAP", "rank1", "rank5"), rows[row][name]))
        assert dict(find_dataset(name).paper) == {score: v for score, v in expected.items() if v is not None}

"""The page of a run: its parts put together into one file that needs no other."""

import base64
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import find_dataset
from datasets.frames import frame_source
from datasets.tracklet import ReIDSplits
from processor import run_folder as files
from processor.evaluation.attention import WHAT_IT_MEANS
from processor.evaluation.evaluator import Evaluation
from processor.evaluation.html_report import content, figures
from processor.evaluation.html_report.filmstrips import Format, make_strips, num_frames
from processor.evaluation.html_report.run_files import (
    read_camera_pairs,
    read_history,
    read_protocol,
    read_ranks,
    read_scores,
    score_rows,
)
from processor.evaluation.html_report.texts import data_facts, other_than_paper, protocol_sentences
from processor.protocol import EvalProtocol
from utils.errors import InputError, printable
from utils.files import save_text
from utils.metrics import SCORES

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_STRIP_BYTES = 20 * 10**6  # of all filmstrips; base64 makes 27 MB of them, and the page stays below 30
_LOSSES = "loss_"
_SELECTED = {"test": "best mAP + Rank-1 on the test set", "val": "best mAP + Rank-1 on the validation part"}

Changes = Mapping[str, tuple[Any, Any]]  # config key -> (default, value)
Attention = Sequence[tuple[str, str, bytes]]  # title, note, PNG or WebP picture


@dataclass(frozen=True)
class RunPage:
    """What the page is made of, beside the files in the folder of the run."""

    folder: Path  # holds metrics.json; history.csv, ranks.csv and camera_pairs.csv where there are such
    evaluation: Evaluation | None  # None: what the files say is shown
    splits: ReIDSplits | None  # names of persons and cameras, root of the frames; None without evaluation
    has_frames: bool = True  # whether the frames of the tracklets can be read
    changes: Changes | None = None  # keys that differ from the defaults; None: not known
    notes: Sequence[str] = ()  # what a reader must know first, a sentence each
    attention: Attention = ()
    epochs_tested: str = ""  # part and sampling behind the scores in history.csv; empty: not known


def write_page(path: Path, page: RunPage) -> None:
    """Write the page as one HTML file; its folder is made. Raises InputError for broken files of the run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    read = {name: Markup((_HERE / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")}
    text = environment.get_template("page.html.j2").render(
        css=read["page.css"], js=read["page.js"], **_parts(page, Markup)
    )
    files.create_output_dir(path.parent)
    save_text(path, text, errors="backslashreplace")


def _parts(page: RunPage, safe: type) -> dict[str, Any]:
    """The variables of the template; `safe` marks text that is HTML already."""
    metrics, evaluation = read_scores(page.folder), page.evaluation
    if evaluation is None and metrics is None:
        raise InputError(f"{page.folder} holds no test: neither {files.METRICS} nor weights and data to test with")
    notes = list(page.notes)
    scores = metrics if evaluation is None else evaluation.summary() | _kept(metrics or {})
    protocol = evaluation.protocol if evaluation else read_protocol(page.folder, scores)
    if evaluation is not None:
        lists = content.rank_lists(evaluation, page.splits)
        firsts = [r.first_match for r in evaluation.rankings]
        all_ap = [r.average_precision for r in evaluation.rankings]
        cameras = content.camera_table(evaluation, page.splits.cameras)
        distances = content.distance_densities(evaluation)
        points = content.feature_map(evaluation, page.splits)
    else:
        ranks = read_ranks(page.folder)
        lists = content.read_lists(ranks)
        firsts = [int(float(row["first_match"] or 0)) for row in ranks]
        all_ap = [float(row["AP"] or "nan") for row in ranks]
        cameras = content.read_camera_table(read_camera_pairs(page.folder))
        distances, points = None, []
    strips, form = [], None
    if not page.has_frames:
        lists = lists._replace(tracklets=[t._replace(frames=0) for t in lists.tracklets], pictured=[])
    if lists.pictured:
        splits = page.splits
        source = frame_source(splits.pack, splits.root)
        strips, form = make_strips(lists.pictured, source, splits.bad_frames, _STRIP_BYTES)
    curve = content.cmc_curve(firsts, scores["num_gallery"]) if firsts else None
    history = read_history(page.folder)
    name = printable(page.folder.resolve().name)
    paper, comparable = _paper(protocol, scores)
    return {
        "title": f"{protocol.dataset}: {name}",
        "dataset": protocol.dataset,
        "run": name,
        "notes": [printable(note) for note in notes],
        "tiles": _tiles(scores, paper if comparable.startswith("Paper") else {}, safe),
        "rows": _rows(scores, paper),
        "columns": list(SCORES.values()),
        "comparable": comparable,
        "protocol": protocol_sentences(protocol, scores),
        "facts": [(label, printable(text)) for label, text in _facts(page, scores, protocol.dataset)],
        "changes": None if page.changes is None else [
            (key, printable(value), printable(default)) for key, (default, value) in page.changes.items()
        ],
        "cmc": safe(figures.cmc_chart(curve)) if curve else "",
        "ap": safe(figures.ap_chart(all_ap)) if curve else "",
        "num_scored": sum(1 for first in firsts if first),
        "distances": safe(figures.distance_chart(distances)) if distances else "",
        "distance_counts": distances,
        "cameras": cameras,
        "training": _training(history, page.epochs_tested, safe),
        "map": _map(points, safe),
        "lists": lists,
        "num_query": scores["num_query"],
        "has_strips": bool(strips),
        "attention": [(printable(t), printable(note), safe(_data_url(picture))) for t, note, picture in page.attention],
        "what_attention_means": WHAT_IT_MEANS,
        "data": safe(_json(_list_data(lists, form))),
        "strips": safe("\n".join(base64.b64encode(strip).decode("ascii") for strip in strips)),
    }  # fmt: skip


def _kept(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What metrics.json says beside the scores of its test."""
    names = ("epoch", "selected_by", "last", "untrained", "weight", "train_items", "frames_replaced")
    return {name: metrics[name] for name in names if name in metrics}


def _paper(protocol: EvalProtocol, scores: Mapping[str, Any]) -> tuple[Mapping[str, float], str]:
    """The paper's scores in percent on this data set, and whether they may stand beside these, in a sentence."""
    try:
        known = find_dataset(protocol.dataset)
    except InputError:
        return {}, ""
    here = scores["num_query"], scores["num_gallery"]
    if not known.paper:
        return {}, ""
    other = other_than_paper(protocol)
    if other:
        return known.paper, f"The paper's row is not comparable: this test has {', '.join(other)}."
    if here == known.official_test:  # the gallery counts with the queries where the data set's rule includes them
        of_splits = f", the mean of {known.num_splits} splits" if known.num_splits > 1 else ""
        return known.paper, f"Paper: TF-CLIP (AAAI 2024) on {known.name}{of_splits}."
    return known.paper, (
        f"The paper's row is not comparable: it stands for {known.official_test[0]:,} queries against "
        f"{known.official_test[1]:,} gallery tracklets of {known.name}, this test has {here[0]:,} against {here[1]:,}."
    )


def _tiles(scores: Mapping[str, Any], paper: Mapping[str, float], safe: type) -> list[dict[str, Any]]:
    """One tile per score: title, percent, interval and the paper's value."""
    tiles = []
    for name, title in SCORES.items():
        low, high = (100 * end for end in scores.get("ci95", {}).get(name, (math.nan, math.nan)))
        ends = (None, None) if math.isnan(low) else (low, high)
        bar = figures.score_bar(100 * scores[name], *ends, paper.get(name))
        interval = "" if ends[0] is None else f"{low:.2f} – {high:.2f}"
        shown = f"{paper[name]:.1f}" if name in paper else ""
        tiles.append({
            "title": title, "value": f"{100 * scores[name]:.2f}", "interval": interval, "paper": shown, "bar": safe(bar)
        })  # fmt: skip
    return tiles


def _rows(scores: Mapping[str, Any], paper: Mapping[str, float]) -> list[tuple[str, list[str]]]:
    """The table of scores in percent: this test, what stands beside it, the paper."""
    rows = [
        (title, [f"{100 * values[name]:.2f}" if name in values else "–" for name in SCORES])
        for title, values in score_rows(scores).items()
    ]
    if paper:
        rows.append(("paper", [f"{paper[name]:.1f}" if name in paper else "–" for name in SCORES]))
    return rows


def _facts(page: RunPage, scores: Mapping[str, Any], dataset: str) -> list[tuple[str, str]]:
    """What was tested, and with what."""
    facts = [("Data set", dataset)]
    if page.splits is not None and page.splits.train:
        facts += data_facts(page.splits)
    facts.append(("Test", f"{scores['num_query']:,} queries against {scores['num_gallery']:,} gallery tracklets"))
    if "epoch" in scores:
        chosen = _SELECTED.get(str(scores.get("selected_by")), "the last one")
        facts.append(("Epoch", f"{scores['epoch']} ({chosen})"))
    facts.append(("Weights", str(scores.get("weight", files.BEST))))
    if "train_items" in scores:
        facts.append(("Training items", str(scores["train_items"])))
    return facts


def _training(history: Sequence[Mapping[str, float]], tested: str, safe: type) -> list[dict[str, Any]]:
    """The charts of history.csv: losses, scores (`tested` says of what), learning rate; none without epochs."""
    columns = {name for row in history for name in row}

    def series(names: Sequence[str], factor: float = 1.0) -> dict[str, list[tuple[float, float]]]:
        lines = {name: [(row["epoch"], factor * row[name]) for row in history if name in row] for name in names}
        return {name: [p for p in points if math.isfinite(p[1])] for name, points in lines.items() if name in columns}

    charts = []
    losses = {name.removeprefix(_LOSSES): line for name, line in series(sorted(
        (n for n in columns if n.startswith(_LOSSES)), key=lambda n: (n != "loss_total", n)
    )).items() if line}  # fmt: skip
    scores = {SCORES[name]: line for name, line in series(list(SCORES)[:4], 100).items() if line}
    rates = {"learning rate": [p for line in series(["lr"]).values() for p in line if p[1] > 0]}
    for title, lines, options in (
        ("Losses", losses, {}), ("Scores during training", scores, {"in_percent": True}),
        ("Learning rate", rates, {"log_y": True}),
    ):  # fmt: skip
        if any(lines.values()):
            picture = safe(figures.lines_chart(title, lines, history[-1].get("epoch", 0), **options))
            about = f"{tested}: " if tested and lines is scores else ""
            charts.append({"title": title, "about": about, "chart": picture, "names": list(lines)})
    return charts


def _map(points: Sequence[content.MapPoint], safe: type) -> dict[str, Any] | None:
    if not points:
        return None
    chart, people, cameras = figures.map_chart(points)
    return {
        "chart": safe(chart), "count": len(points),
        "people": [(safe(mark), name) for mark, name in people],
        "cameras": [(safe(mark), name) for mark, name in cameras],
    }  # fmt: skip


def _list_data(lists: content.RankedLists, form: Format | None) -> dict[str, Any]:
    """The lists for page.js, with persons and cameras by number: every text is there once."""
    people, cameras = (sorted({getattr(t, part) for t in lists.tracklets}) for part in ("person", "camera"))
    person, camera = ({text: number for number, text in enumerate(texts)} for texts in (people, cameras))
    shown = [num_frames(t, form) for t in lists.pictured] if form else [0] * len(lists.tracklets)
    return {
        "people": people,
        "cameras": cameras,
        "tracklets": [
            [t.name, person[t.person], camera[t.camera], t.frames, count] for t, count in zip(lists.tracklets, shown)
        ],
        "queries": [
            [
                q.tracklet, _number(q.ap), _number(q.inp), q.first_match, q.num_right,
                [[n.tracklet, round(n.distance, 6), int(n.is_right)] for n in q.nearest],
            ]
            for q in lists.queries
        ],
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data_url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"

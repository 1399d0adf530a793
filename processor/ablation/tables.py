"""The tables of an ablation: this project's figures beside the paper's, as tables.md, tables.csv and on screen."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from datasets import find_dataset
from processor.ablation.cost import Cost
from processor.ablation.marks import NOTE, Mark, find_marks
from processor.ablation.paper import PAPER_ROWS, PaperRow
from processor.compare import aligned
from processor.splits_table import mean_and_spread
from utils.files import save_csv, save_text
from utils.metrics import SCORES

logger = logging.getLogger(__name__)

MARKDOWN, CSV = "tables.md", "tables.csv"
_PUBLISHED = ("mAP", "rank1", "rank5")  # scores that the paper's tables give, in the order of `Scores`
_METRICS = [(SCORES[name], name) for name in ("mAP", "mINP", "rank1", "rank5")]
_OWN_ROWS = "Own rows"
_COLUMNS = (
    "table", "row", "config", "data set", "seeds",
    *(title + part for title, _ in _METRICS for part in ("", " spread", " paper", " difference")),
    "compared with", "p mAP", "decides", "star",
    "params M", "params M paper", "FLOPs G", "FLOPs G paper", "deployed FLOPs G",
)  # fmt: skip
_NOTES = (
    "Percent; the spread is the standard deviation over the seeds (n - 1). Scores are those of the epoch that "
    "SOLVER.SELECT_BY chose.",
    "params M: millions, with 625 identities and 6 cameras; the text branch with its text tower (without the token "
    "embedding) and its prompts. FLOPs G: billions of multiply-adds per frame in the training forward, linear layers "
    "and attention (and a CNN's convolutions), without the patch embedding; the text branch with one text per frame. "
    "deployed: the retrieval feature alone, everything counted.",
)
_NO_DIFFERENCE = (
    "No difference is formed where network, test set or protocol of the test are not the paper's; its scores stand "
    "there for orientation."
)
_PROTOCOL = {
    "sampling": "dense", "neck_feat": "before", "feat_norm": True, "re_ranking": None, "same_camera_filter": True,
    "ap": "step",
}  # fmt: skip


@dataclass(frozen=True)
class RowResult:
    """What is known of one row."""

    name: str  # of its file, without .yml
    cost: Cost | None = None
    as_paper: bool = True  # whether network, image and clip are those of the paper's row
    runs: Sequence[dict[str, Any]] = field(default_factory=tuple)  # metrics.json of each finished seed
    folders: Sequence[Path] = ()  # of the same seeds; without them the row is compared with none


def write_tables(out: Path, results: Sequence[RowResult], log: bool = False) -> list[Path]:
    """Write tables.md and tables.csv with a row for each result, in the order of the paper's tables.

    With `log` the tables also go to the screen and the log.
    """
    records, reasons = _records(results)
    sections = [f"## {table}\n\n{_markdown(rows)}\n" for table, rows in _by_table(records).items()]
    notes = [*_NOTES, *_comparability(records), *_of_marks(records, reasons)]
    save_text(out / MARKDOWN, "\n".join([*sections, *notes, ""]))
    save_csv(out / CSV, _COLUMNS, records)
    if log:
        _log_tables(records, reasons)
    return [out / MARKDOWN, out / CSV]


def _log_tables(records: Sequence[dict[str, str]], reasons: Sequence[str]) -> None:
    for table, rows in _by_table(records).items():
        _log_aligned(table, *_short_cells(rows))
    for note in (*_comparability(records), *_of_marks(records, reasons)):
        logger.info("%s", note)


def log_costs(results: Sequence[RowResult]) -> None:
    """Parameters and multiply-adds beside the paper's, a line per row."""
    header = ["", "params M", "paper", "diff", "FLOPs G", "paper", "diff", "deployed G"]
    for table, rows in _by_table(_records(results)[0]).items():
        body = []
        for row in rows:
            cells = []
            for column in ("params M", "FLOPs G"):
                ours, paper = row[column], row[f"{column} paper"]
                cells += [ours, paper, f"{100 * (float(ours) / float(paper) - 1):+.1f}%" if ours and paper else ""]
            body.append([cell or "-" for cell in (row["row"], *cells, row["deployed FLOPs G"])])
        _log_aligned(table, header, body)
    logger.info("%s", _NOTES[1])


def _log_aligned(title: str, header: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """A title and a line per row."""
    for line in (title, *aligned(header, body)):
        logger.info("%s", line)


def _records(results: Sequence[RowResult]) -> tuple[list[dict[str, str]], list[str]]:
    """One flat record per row, in the order of the paper's tables, then those that are not the paper's.

    Also why rows could not be compared with others of their table.
    """
    by_name = {result.name: result for result in results}
    pairs = [(row, by_name.pop(row.config)) for row in PAPER_ROWS if row.config in by_name]
    pairs += [(PaperRow(_OWN_ROWS, name, name), result) for name, result in by_name.items()]
    marks, reasons = find_marks([(row.table, _dataset(r), row.label, r.folders) for row, r in pairs])
    return [_record(row, result, mark) for (row, result), mark in zip(pairs, marks)], reasons


def _dataset(result: RowResult) -> str:
    return next((run["protocol"]["dataset"] for run in result.runs), "")


def _record(paper: PaperRow, result: RowResult, mark: Mark | None) -> dict[str, str]:
    record = dict.fromkeys(_COLUMNS, "") | {"table": paper.table, "row": paper.label, "config": result.name}
    if result.cost is not None:
        record["params M"] = f"{result.cost.params:.2f}"
        record["FLOPs G"] = f"{result.cost.training_flops:.2f}"
        record["deployed FLOPs G"] = f"{result.cost.deployed_flops:.2f}"
    if result.as_paper:
        record["params M paper"] = "" if paper.params is None else f"{paper.params:.2f}"
        record["FLOPs G paper"] = "" if paper.flops is None else f"{paper.flops:.2f}"
    dataset = _dataset(result)
    record |= {"data set": dataset, "seeds": str(len(result.runs))}
    if not result.runs:
        return record
    if mark is not None:
        record |= {"compared with": mark.reference, "p mAP": f"{mark.p:.4f}", "decides": mark.decides}
        record["star"] = "*" if mark.holds else ""
    mean, spread = mean_and_spread(result.runs)
    published = dict(zip(_PUBLISHED, paper.scores.get(dataset, ())))
    for title, name in _METRICS:
        value = published.get(name)
        record[title] = f"{100 * mean[name]:.2f}"
        record[f"{title} spread"] = f"{100 * spread[name]:.2f}" if len(result.runs) > 1 else ""
        if value is not None:
            record[f"{title} paper"] = f"{value:.1f}"
            if result.as_paper and all(_is_official(run) for run in result.runs):
                record[f"{title} difference"] = f"{100 * mean[name] - value:+.2f}"
    return record


def _is_official(run: dict[str, Any]) -> bool:
    """Whether a test is that of the paper: the whole test set under the default protocol."""
    protocol = run["protocol"]
    counts = (run["num_query"], run["num_gallery"])
    official = find_dataset(protocol["dataset"]).official_test
    in_float32 = protocol.get("precision", "float32") in ("float32", "tf32")  # earlier runs do not say
    return official == counts and in_float32 and all(protocol[k] == v for k, v in _PROTOCOL.items())


def _comparability(records: Sequence[dict[str, str]]) -> list[str]:
    apart = any(r[f"{title} paper"] and not r[f"{title} difference"] for r in records for title, _ in _METRICS)
    return [_NO_DIFFERENCE] if apart else []


def _of_marks(records: Sequence[dict[str, str]], reasons: Sequence[str]) -> list[str]:
    """What a star means, where rows were compared; why others could not be, said once."""
    notes = [NOTE] if any(record["compared with"] for record in records) else []
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        notes.append(f"No star where rows cannot be compared: {reasons[0]}{more}")
    return notes


def _by_table(records: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    return {table: list(rows) for table, rows in groupby(records, key=itemgetter("table"))}


def _short_cells(rows: Sequence[dict[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells for people: the spread stands behind its mean."""
    header = ["row", "seeds"]
    for title, _ in _METRICS:
        header += [title, "paper", "diff."]
    header += ["params M", "paper", "FLOPs G", "paper", "deployed"]
    body = []
    for row in rows:
        cells = [f"{row['row']} {row['star']}".rstrip(), row["seeds"]]
        for title, _ in _METRICS:
            spread = f" ± {row[f'{title} spread']}" if row[f"{title} spread"] else ""
            cells += [row[title] + spread, row[f"{title} paper"], row[f"{title} difference"]]
        cells += [row[name] for name in _COLUMNS[-5:]]
        body.append([cell or "-" for cell in cells])
    return header, body


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    header, body = _short_cells(rows)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

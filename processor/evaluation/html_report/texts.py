"""What the page of a run says in words: the protocol of its test, and how much data there is."""

from collections.abc import Mapping
from typing import Any

from datasets.tracklet import ReIDSplits, count_tracklets
from processor.protocol import EvalProtocol
from utils.errors import printable


def protocol_sentences(protocol: EvalProtocol, metrics: Mapping[str, Any]) -> list[str]:
    """The protocol in words, a sentence for each choice that moves a score."""
    ranked = "all test tracklets, the queries among them; a query is not compared with itself"
    sentences = [
        "Features: every frame of a tracklet is read, in consecutive clips whose features are averaged (dense)."
        if protocol.sampling == "dense"
        else "Features: one clip per tracklet, the first frame of each of its equal parts (first).",
        f"Gallery: {ranked if protocol.gallery_includes_query else 'the test tracklets that are no query'}.",
        "Tracklets of the query's person in the query's own camera are left out."
        if protocol.same_camera_filter
        else "No tracklet is left out because of its camera.",
        f"Compared are the features {protocol.neck_feat} the BNNecks, "
        + ("L2-normalised, " if protocol.feat_norm else "as they are, ")
        + "by Euclidean distance.",
        "k-reciprocal re-ranking: k1 {}, k2 {}, lambda {}.".format(*protocol.re_ranking)
        if protocol.re_ranking
        else "No re-ranking.",
        "AP is the mean precision at the true matches."
        if protocol.ap == "step"
        else "AP is the area under the precision-recall curve by trapezoids (MARS' official rule).",
        f"Camera embedding {'on' if protocol.camera_embedding else 'off'}, features computed in {protocol.precision}.",
    ]
    if protocol.split:
        sentences.append(f"Split {protocol.split}, trained on the {protocol.train_half} half.")
    if protocol.left_out:
        sentences.append(f"Frames left out (DATASETS.EXCLUDE): {protocol.left_out}.")
    if without := metrics.get("num_query_without_match", 0):
        queries = metrics["num_query"]
        sentences.append(f"{without} of {queries} queries have no true match; the scores are means over the others.")
    if replaced := metrics.get("frames_replaced", 0):
        sentences.append(f"{replaced} frames could not be read; the nearest of their tracklet took their place.")
    return [printable(sentence) for sentence in sentences]


def other_than_paper(protocol: EvalProtocol) -> list[str]:
    """The choices that make a test another one than the paper's, on the same queries and gallery."""
    paper = EvalProtocol(protocol.dataset, "dense", protocol.gallery_includes_query)
    choices = {
        "sampling": f"{protocol.sampling} sampling", "re_ranking": "re-ranking", "ap": f"TEST.AP {protocol.ap}",
        "neck_feat": f"TEST.NECK_FEAT {protocol.neck_feat}", "feat_norm": f"TEST.FEAT_NORM {protocol.feat_norm}",
        "same_camera_filter": f"TEST.SAME_CAMERA_FILTER {protocol.same_camera_filter}",
        "left_out": "frames left out (DATASETS.EXCLUDE)",
    }  # fmt: skip
    return [words for name, words in choices.items() if getattr(protocol, name) != getattr(paper, name)]


def data_facts(splits: ReIDSplits) -> list[tuple[str, str]]:
    """How much there is of each part."""
    facts = []
    for name in ("train", "query", "gallery"):
        if tracklets := getattr(splits, name):
            ids, count, frames, cameras = count_tracklets(tracklets)
            of_cameras = f", {cameras} cameras" if splits.cameras else ""
            facts.append((name.capitalize(), f"{count:,} tracklets of {ids:,} people, {frames:,} frames{of_cameras}"))
    return facts

"""Pictures of where the network looks in clips of tracklets: which clips, under which titles.

model.attention says what roll-out and the weights mean, and what they do not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from datasets.bad_frames import BadFrames
from datasets.clips import dense_clips, read_nearest_into
from datasets.frames import FILES, FrameSource, frame_source
from datasets.tracklet import ReIDSplits, Tracklet
from model.attention import attention_maps
from processor.evaluation.attention_figure import Picture, SeenClip, draw_picture
from processor.trained_model import TrainedModel
from utils.errors import InputError

WHAT_IT_MEANS = (
    "Attention says from where a token takes values, not what they are worth to the feature. Roll-out takes the "
    "residual for half of what a block passes on and all heads for equally important, and leaves out values, norms and "
    "MLPs: it sketches how patches can reach the class token, and is no evidence that a patch decided a match."
)


def query_pictures(
    trained: TrainedModel, splits: ReIDSplits, dataset: str, notes: Mapping[int, str], clip: int = 0
) -> list[Picture]:
    """One picture per query; `notes` has a note for the title of each, by its row in `splits.query` (from 0).

    `dataset` is the official name of that of `splits`: only in the data set of the training a camera's name says which
    one it is. `best_middle_worst` gives such notes. Raises as `look_at`.
    """
    queries = [splits.query[row] for row in notes]
    titles = [_title(row, query, splits, note) for query, (row, note) in zip(queries, notes.items())]
    known = {}
    if splits.cameras and dataset == trained.dataset:
        known = {name: trained.camera_number(name) for name in trained.cameras}
    queries = [replace(t, camid=known.get(splits.camera(t.camid), trained.no_camera)) for t in queries]
    source = frame_source(splits.pack, splits.root)
    return attention_pictures(trained, queries, titles, source, splits.bad_frames, clip)


def best_middle_worst(precisions: Sequence[float]) -> dict[int, str]:
    """Average precision of each query, nan without a true match -> note for the best, the middle and the worst."""
    ranked = sorted((row for row, ap in enumerate(precisions) if not math.isnan(ap)), key=lambda row: -precisions[row])
    if not ranked:
        return {}
    chosen = {ranked[0]: "best", ranked[-1]: "worst"} if len(ranked) > 1 else {ranked[0]: "only one"}
    if len(ranked) > 2:
        chosen[ranked[(len(ranked) - 1) // 2]] = "middle"
    return {row: f"AP {precisions[row]:.3f}, {chosen[row]} of {len(ranked)}" for row in ranked if row in chosen}


def _title(row: int, query: Tracklet, splits: ReIDSplits, note: str) -> str:
    camera = f", camera {splits.camera(query.camid)}" if splits.cameras else ""
    return f"query {row + 1}: person {splits.person(query.pid)}{camera}" + (f" ({note})" if note else "")


def attention_pictures(
    trained: TrainedModel,
    tracklets: Sequence[Tracklet],
    titles: Sequence[str],
    source: FrameSource = FILES,
    bad_frames: BadFrames | None = None,
    clip: int = 0,
) -> list[Picture]:
    """One picture per tracklet, whose camera has the model's number; the rest as in `look_at`."""
    return [
        draw_picture(title, look_at(trained, tracklet, source, bad_frames, clip))
        for tracklet, title in zip(tracklets, titles, strict=True)
    ]


def look_at(
    trained: TrainedModel,
    tracklet: Tracklet,
    source: FrameSource = FILES,
    bad_frames: BadFrames | None = None,
    clip: int = 0,
) -> SeenClip:
    """Read clip `clip` (from 0) of the clips that a dense test makes of a tracklet, and pass it through the network.

    Raises InputError for a tracklet without such a clip, and for a frame that cannot be read; with `bad_frames` the
    nearest one takes its place.
    """
    keys, total = trained.cfg.INPUT, len(tracklet.frames)
    clips = dense_clips(total, keys.SEQ_LEN)
    if not 0 <= clip < len(clips):
        raise InputError(
            f"there is no clip {clip + 1} of the tracklet that begins with {tracklet.frames[0]}: its {total} frames "
            f"make {len(clips)} of {keys.SEQ_LEN} (INPUT.SEQ_LEN)"
        )
    places = clips[clip]
    frames_THW3 = np.empty((len(places), *keys.SIZE_TEST, 3), np.uint8)
    faults: dict[str, str] | None = None if bad_frames is None else {}
    read_nearest_into(frames_THW3, [(tracklet.frames, place) for place in places], source, faults)
    if faults:
        bad_frames.add(faults)
    runtime = trained.runtime
    clips_BT3HW = torch.from_numpy(frames_THW3).permute(0, 3, 1, 2)[None]
    clips_BT3HW, camids = runtime.move(clips_BT3HW, torch.tensor([tracklet.camid]))
    with runtime.autocast():
        maps = attention_maps(trained.model, runtime.normalize(clips_BT3HW), camids)
    repeated = ", repeated" if len(set(places)) < len(places) else ""
    where = f"clip {clip + 1} of {len(clips)}, frames {places[0] + 1} to {max(places) + 1} of {total}{repeated}"
    return SeenClip(frames_THW3, [place + 1 for place in places], where, maps)

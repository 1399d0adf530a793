"""Crops of videos; every video is decoded once, frame by frame."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import av
from PIL import Image

from datasets.frames import MOST_PIXELS, check_size
from datasets.own.crops import Cut, Report, crops_of, in_threads, save_crop, unusable
from utils.progress import progress


def cut_videos(cuts: Mapping[str, Sequence[Cut]], folder: Path, report: Report) -> list[int]:
    """Cut all crops of videos into `folder`; each video is decoded once, up to the last frame that is needed.

    Returns the rows whose box reaches beyond its picture and was clipped.
    """
    total = sum(max(cut.frame for cut in of_video) + 1 for of_video in cuts.values())
    frames = progress(_decoded(cuts, report), "cutting crops", "frame", total=total)
    beyond: list[int] = []
    crops = (
        crop
        for of_frame, picture in frames
        if picture
        for crop in crops_of(picture, of_frame, folder, report, beyond, where=f"frame {of_frame[0].frame} ")
    )
    with closing(in_threads(save_crop, crops)) as saved:
        for _ in saved:
            pass
    return sorted(beyond)


def _decoded(cuts: Mapping[str, Sequence[Cut]], report: Report) -> Iterator[tuple[Sequence[Cut], Image.Image | None]]:
    """(its crops, RGB picture) of every frame of every video in display order; None for a frame without crops."""
    for source, of_video in cuts.items():
        pending: dict[int, list[Cut]] = defaultdict(list)
        for cut in of_video:
            pending[cut.frame].append(cut)
        count = 0
        problem = unusable(source)
        try:
            for frame in () if problem else _frames(source):
                if frame.is_corrupt:
                    raise ValueError("the frame is damaged, and so are all that build on it")
                of_frame = pending.get(count, [])
                yield of_frame, Image.fromarray(frame.to_ndarray(format="rgb24")) if of_frame else None
                pending.pop(count, None)
                count += 1
                if not pending:
                    break
        except Exception as error:  # FFmpeg raises many kinds
            reason = getattr(error, "strerror", None) or error
            problem = f"cannot be decoded as a video from frame {count} (the first is 0) on ({reason})"
        if problem:
            report([cut.name for of_frame in pending.values() for cut in of_frame], problem)
            continue
        for number, of_frame in sorted(pending.items()):
            report([cut.name for cut in of_frame], f"has {count} frames, but none of number {number} (the first is 0)")


def _frames(source: str) -> Iterator[av.VideoFrame]:
    # With an absolute path FFmpeg does not take a name with a colon for a protocol.
    with av.open(os.path.abspath(source)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        check_size(stream.width, stream.height)
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # the size may change on the way
        stream.thread_type = "AUTO"
        yield from container.decode(stream)

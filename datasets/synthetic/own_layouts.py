"""The layouts of data that users bring, for the synthetic walks: folders of crops, full pictures, and videos."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import av
import numpy as np

from datasets.synthetic import figure as drawing
from datasets.synthetic.layouts import Layout, count_walks, draw_images, save_image
from datasets.synthetic.walks import CAMERAS, JUNK, Plan, Walk, generator, photograph, plan_tracklets, render

CAMERA_NAMES = ("north gate", "south gate", "car park", "footbridge", "main hall", "stairs")
_FRAMES_PER_SECOND = 25
_KEY, _BOX = ["split", "person", "camera", "tracklet"], ["x", "y", "w", "h"]
# Each test person's first tracklet in a camera is the query; with one alone no gallery would be left.
_LIMITS = {"tracklets": (2, 9)}


def _walks(plan: Plan) -> list[Walk]:
    return [walk for walk in plan_tracklets(plan) if walk.pid != JUNK]


def _key(walk: Walk) -> tuple[str, str, str, str]:
    """Split, person, camera and tracklet in words; every distractor is a person of its own."""
    split = "train" if walk.split == "train" else "query" if walk.is_query else "gallery"
    camera, tracklet = CAMERA_NAMES[walk.camera - 1], f"{walk.number:04d}"
    person = f"stranger-{walk.camera}-{tracklet}" if walk.pid <= 0 else f"person-{walk.pid:03d}"
    return split, person, camera, tracklet


def _folder_name(walk: Walk, plan: Plan, number: int) -> str:
    split, person, camera, tracklet = _key(walk)
    return f"{split}/{person}/{camera}_{tracklet}/{number:06d}.jpg"


def _describe_folder(root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[str]]) -> dict[str, int]:
    return count_walks(walks, drawn)


@lru_cache(maxsize=len(CAMERAS))
def _empty_street(seed: int, camera: int, height: int, width: int) -> np.ndarray:
    """What a camera (from 1) sees before anybody comes, uint8 (height, width, 3)."""
    look = CAMERAS[camera - 1]
    scene = drawing.draw_street((seed, camera), height, look.horizon)[:, :width]
    return photograph(scene, look, (*look.slope, 1.0), generator(6, seed, camera))


def _full_pictures(walk: Walk, plan: Plan) -> list[tuple[np.ndarray, tuple[int, int, int, int]]]:
    """Pictures half as tall again as the frames and three times as wide, even sides; box (x, y, w, h) of the person."""
    (tall, wide), frames = plan.size, render(walk, plan)
    height, width = (2 * round(side / 2) for side in (1.5 * tall, 3 * wide))
    rng = generator(4, plan.seed, walk.pid, walk.camera, walk.number)
    top, pictures = int(rng.integers(height - tall + 1)), []
    for left in np.linspace(*rng.integers(0, width - wide + 1, 2), len(frames)).astype(int).tolist():
        picture = _empty_street(plan.seed, walk.camera, height, width).copy()
        picture[top : top + tall, left : left + wide] = frames[len(pictures)]
        pictures.append((picture, (left, top, wide, tall)))
    return pictures


def _draw_pictures(walks: Sequence[Walk], plan: Plan, root: Path) -> list[list[tuple]]:
    """Write every full picture as a JPEG file; the rows of the manifest per walk."""
    drawn = []
    for walk in walks:
        split, person, camera, tracklet = _key(walk)
        rows = []
        for number, (picture, box) in enumerate(_full_pictures(walk, plan), 1):
            name = f"pictures/{person}/{camera}_{tracklet}_{number:06d}.jpg"
            save_image(root / name, picture, walk.camera)
            rows.append((split, person, camera, tracklet, name, *box))
        drawn.append(rows)
    return drawn


def _by_camera(walks: Sequence[Walk]) -> list[list[Walk]]:
    cameras = sorted({walk.camera for walk in walks})
    return [[walk for walk in walks if walk.camera == camera] for camera in cameras]


def _film(walks: Sequence[Walk], plan: Plan, root: Path) -> list[list[tuple]]:
    """Write the walks past one camera one after another into a video; the rows of the manifest per walk."""
    name = f"videos/{CAMERA_NAMES[walks[0].camera - 1]}.avi"
    (root / "videos").mkdir(exist_ok=True)
    try:
        # Bit-exact and by one thread, the video differs between two runs only where the encoder does.
        with av.open(str(root / name), "w", container_options={"fflags": "+bitexact"}) as video:
            return _encode(video, walks, plan, name)
    except av.FFmpegError as fault:
        # Not every one of these errors can be sent from one process to another.
        raise OSError(fault.errno, fault.strerror) from None


def _encode(video: av.container.OutputContainer, walks: Sequence[Walk], plan: Plan, name: str) -> list[list[tuple]]:
    stream, drawn, count = None, [], 0
    for walk in walks:
        rows = []
        for picture, box in _full_pictures(walk, plan):
            if stream is None:
                stream = video.add_stream("mpeg4", rate=_FRAMES_PER_SECOND, options={"qmin": "1", "qmax": "2"})
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
                stream.codec_context.thread_count = 1
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            rows.append((*_key(walk), name, count, *box))
            count += 1
        drawn.append(rows)
    video.mux(stream.encode(None))
    return drawn


def _describe_manifest(
    root: Path, plan: Plan, walks: Sequence[Walk], drawn: Sequence[Sequence[tuple]], columns: list[str]
) -> dict[str, int]:
    with (root / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(row for rows in drawn for row in rows)
    return count_walks(walks, drawn)


FOLDER = Layout(partial(draw_images, name=_folder_name), _describe_folder, walks=_walks, limits=_LIMITS)
MANIFEST = Layout(
    _draw_pictures,
    partial(_describe_manifest, columns=[*_KEY, "frame", *_BOX]),
    walks=_walks,
    limits=_LIMITS,
)
VIDEO = Layout(
    _film,
    partial(_describe_manifest, columns=[*_KEY, "video", "frame", *_BOX]),
    walks=_walks,
    portions=_by_camera,
    limits=_LIMITS,
)

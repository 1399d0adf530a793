"""Small videos whose frames carry their number, and tables of boxes in them."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

HEADER = "split,person,camera,tracklet,video,frame,x,y,w,h"
WIDTH, HEIGHT, FRAMES = 64, 48, 20
BITS, SIDE = 8, 8  # a frame's number stands in its top row as squares of SIDE pixels, lowest bit first


def picture(number: int) -> np.ndarray:
    """A smooth background that moves, below the number of the frame."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    pixels = np.stack([(x + 3 * number) * 3, y * 4 + number, (x + y) * 2], axis=2).astype(np.uint8)
    bits = np.array([number >> bit & 1 for bit in range(BITS)], dtype=np.uint8) * 255
    pixels[:SIDE] = np.repeat(bits, SIDE)[None, :, None]
    return pixels


def read_number(pixels: np.ndarray) -> int:
    inner = [pixels[2 : SIDE - 2, bit * SIDE + 2 : (bit + 1) * SIDE - 2].mean() for bit in range(BITS)]
    return sum(int(mean > 128) << bit for bit, mean in enumerate(inner))


def write_video(path: Path, codec: str, pixel_format: str, frames: int = FRAMES, **options: str) -> list[int]:
    """Write numbered frames; the presentation times of the packets in the order of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        pictures = [av.VideoFrame.from_ndarray(picture(number), format="rgb24") for number in range(frames)]
        for frame in (*pictures, None):
            for packet in stream.encode(frame):
                times.append(packet.pts)
                container.mux(packet)
    return times


def write_table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "boxes.csv"
    path.write_text("".join(f"{row}\n" for row in (header, *rows)), encoding="utf-8")
    return path


def pixels_of(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))

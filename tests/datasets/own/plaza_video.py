"""The plaza video and its boxes as a CSV file for the data set 'video'."""

import csv
from pathlib import Path

from datasets.sets.mars import parse_mars

WIDTH, HEIGHT = 768, 576  # of the video


def write_plaza_csv(shared: Path, target_folder: Path) -> Path:
    """Write target_folder/plaza.csv with train, query and gallery as the MARS lists of the plaza crops have them.

    `shared` holds data/plaza and data/plaza-video; the video is linked beside the file. Junk is left
    out, distractors are person 0000; the three boxes that reach beyond the picture are cut off at its edge.
    """
    lists = parse_mars(shared / "data" / "plaza")
    source = shared / "data" / "plaza-video"
    with (source / "boxes.csv").open(encoding="utf-8", newline="") as file:
        boxes = {row["name"]: row for row in csv.DictReader(file)}
    path = target_folder / "plaza.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("split", "person", "camera", "tracklet", "video", "frame", "x", "y", "w", "h"))
        for split in ("train", "query", "gallery"):
            for frame in (frame for tracklet in getattr(lists, split) for frame in tracklet.frames):
                name = Path(frame).name  # 0001C1T0001F001.jpg: person, camera, tracklet, number in the tracklet
                row = boxes[name]
                link = target_folder / Path(row["video"]).name
                if not link.exists():
                    link.symlink_to((source / row["video"]).resolve())
                x, y, w, h = (int(row[side]) for side in "xywh")
                left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT)
                box = (left, top, right - left, bottom - top)
                writer.writerow((split, name[:4], name[4:6], name[6:11], link.name, row["frame"], *box))
    return path

"""The one record of every data set, and the three lists of a protocol."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tracklet:
    """One person seen by one camera over consecutive frames."""

    frames: tuple[str, ...]  # image paths in temporal order, at least one
    pid: int  # train: label 0..C-1; test: the data set's own id (0: distractor)
    camid: int  # 0-based

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"a tracklet of person {self.pid}, camera {self.camid} has no frames")


@dataclass(frozen=True)
class ReIDSplits:
    """Training, query and gallery tracklets; `gallery` holds no query."""

    train: tuple[Tracklet, ...]
    query: tuple[Tracklet, ...]
    gallery: tuple[Tracklet, ...]
    num_classes: int  # training identities (C)
    num_cameras: int  # the data set's official count (K)
    gallery_includes_query: bool  # what the data set's protocol ranks against

    def summary(self) -> str:
        """A table of identities, tracklets, frames and cameras per split, one line each."""
        lines = [f"{'split':<10}{'ids':>8}{'tracklets':>12}{'frames':>12}{'cameras':>10}"]
        for name in ("train", "query", "gallery"):
            tracklets = getattr(self, name)
            ids = len({t.pid for t in tracklets})
            frames = sum(len(t.frames) for t in tracklets)
            cameras = len({t.camid for t in tracklets})
            lines.append(f"{name:<10}{ids:>8,}{len(tracklets):>12,}{frames:>12,}{cameras:>10}")
        return "\n".join(lines)


def relabel(tracklets: list[Tracklet]) -> list[Tracklet]:
    """Replace the ids by labels 0..C-1 in the order of the sorted ids."""
    label = {pid: index for index, pid in enumerate(sorted({t.pid for t in tracklets}))}
    return [replace(t, pid=label[t.pid]) for t in tracklets]

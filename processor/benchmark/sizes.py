"""How much the benchmark measures: little for CPU cores, all of it for a GPU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How much is measured. None: as the config has it."""

    image: tuple[int, int] | None = (128, 64)  # pixels [height, width] at most, of step and passes
    clip_frames: int | None = 4  # at most (T)
    batch: tuple[int, int] | None = (2, 4)  # identities and tracklets of each at most (P, K)
    frames_per_batch: int | None = 64  # at most, of the passes
    warm_up: int = 1  # steps
    steps: int = 4
    pass_clips: int = 64
    identities: int = 8  # of the synthetic set, or as many as a batch has
    loader_batches: int = 16  # different ones
    loader_rounds: int = 8
    loader_seconds: float = 0.6  # of a round
    decode_frames: int = 2048
    decode_seconds: float = 0.5
    matmul_side: int = 2048  # four times that on a GPU, as the bytes of the copy
    copy_bytes: int = 2**28
    ranking: tuple[int, int, int] = (495, 2828, 2048)  # queries, gallery items, features: a quarter of MARS
    ranking_repeats: int = 5
    re_ranking_repeats: int = 2
    both_compiled: bool = False  # the step with and without SOLVER.COMPILE


REDUCED = Sizes()
FULL = Sizes(
    image=None, clip_frames=None, batch=None, frames_per_batch=None, warm_up=10, steps=40, pass_clips=4000,
    loader_batches=32, loader_seconds=5.0, ranking=(1980, 11_310, 2048), ranking_repeats=3,
    re_ranking_repeats=1, both_compiled=True,
)  # fmt: skip

"""One pass of the frozen model over whole tracklets: mean of the clip features of each.

B clips, T frames, n tracklets, F features.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.tracklet import Tracklet
from processor.runtime import Runtime
from utils.environment import PASS_NEEDS_LESS, explain_out_of_memory
from utils.group_means import GroupMeans
from utils.interrupt import until_stopped
from utils.progress import progress

Encode = Callable[[Tensor, Tensor], Tensor]  # clips (B, T, 3, H, W), camids (B,) -> features (B, F)


def tracklet_means(
    encode: Encode,
    build_loader: Callable[[Sequence[Tracklet]], DataLoader],
    tracklets: Sequence[Tracklet],
    runtime: Runtime,
    title: str,
) -> Tensor:
    """Means (n, F) float32 on the CPU of `encode` over the clips of each tracklet.

    The tracklets are dealt out to the ranks; every rank gets the means of all. `build_loader` gives the test batches
    of its tracklets. Raises KeyboardInterrupt between batches.
    """
    ranks = runtime.ranks
    mine = [tracklets[row] for row in ranks.deal(len(tracklets))]
    means = means_of_loader(encode, build_loader(mine), len(mine), runtime, title) if mine else None
    ranks.check_stop()
    return ranks.join(means, len(tracklets))


@torch.inference_mode()
def means_of_loader(
    encode: Encode, loader: DataLoader, num_tracklets: int, runtime: Runtime, title: str, hidden: bool = False
) -> Tensor | None:
    """Means (n, F) float32 of `encode` over the batches of a test loader of `num_tracklets` tracklets.

    `hidden` hides the progress bar. None where a rank was told to stop meanwhile.
    """
    means = GroupMeans(num_tracklets)
    frames = 0
    with explain_out_of_memory(PASS_NEEDS_LESS), progress(loader, title, "batch", hidden=hidden) as bar:
        for batch in until_stopped(bar):
            if runtime.ranks.told_to_stop_within_pass():
                return None
            clips, camids, rows = runtime.move(batch.clips, batch.camids, batch.rows)
            clips = runtime.normalize(clips)
            with runtime.autocast():
                features = encode(clips, camids)
            means.add(features, rows)
            frames += clips.shape[0] * clips.shape[1]
            bar.set_postfix_str(f"{frames / max(bar.format_dict['elapsed'], 1e-6):,.0f} frames/s", refresh=False)
    return means.means()

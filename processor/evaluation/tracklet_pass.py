"""One pass of the frozen model over whole tracklets: mean of the clip features of each."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from processor.runtime import Runtime
from utils.environment import PASS_NEEDS_LESS, explain_out_of_memory
from utils.group_means import GroupMeans
from utils.interrupt import check_interrupt
from utils.progress import progress


@torch.inference_mode()
def tracklet_means(
    encode: Callable[[Tensor, Tensor], Tensor],
    loader: DataLoader,
    num_tracklets: int,
    runtime: Runtime,
    title: str,
) -> Tensor:
    """Run `encode(clips (B, T, 3, H, W), camids (B,)) -> (B, F)` over a test loader -> float32 means (tracklets, F)."""
    means = GroupMeans(num_tracklets)
    frames = 0
    with explain_out_of_memory(PASS_NEEDS_LESS), progress(loader, title, "batch") as bar:
        for batch in bar:
            check_interrupt()
            clips, camids, rows = runtime.move(batch.clips, batch.camids, batch.rows)
            clips = runtime.normalize(clips)
            with runtime.autocast():
                features = encode(clips, camids)
            means.add(features, rows)
            frames += clips.shape[0] * clips.shape[1]
            bar.set_postfix_str(f"{frames / max(bar.format_dict['elapsed'], 1e-6):,.0f} frames/s", refresh=False)
    return means.means()

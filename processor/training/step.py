"""Forward and backward pass of one P x K batch, at once or in parts (gradient caching), on one rank or on several.

B clips, b of them on this rank, T frames, H, W pixels, C identities, E projection width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from loss.criterion import Criterion
from model.output import TFCLIPOutput
from model.tfclip import ClipFeatures
from processor.runtime import Runtime

ClipEncoder = Callable[[Tensor, Tensor, Tensor | None], ClipFeatures]  # `TFCLIP.clip_features`, compiled or not
Classifier = Callable[[ClipFeatures], TFCLIPOutput]  # `TFCLIP.classify`
Erasing = Callable[[Tensor], Tensor]  # erases normalised frames (N, 3, H, W) in place


@dataclass(frozen=True)
class TrainingStep:
    """Computes losses and gradients of a batch.

    With `num_parts` above 1 the batch goes through encoder, temporal branch and SSP in parts, twice (GradCache, Gao et
    al., arXiv 2101.06983): the first time without a graph, then necks, classifiers and losses see the features of the
    whole batch, and the second time each part passes the gradients of its features on. Batch-hard mining, batch
    statistics and losses are those of the whole batch; dropout masks are the same in both passes. Only the activations
    of one part are held at a time, at the price of one more forward pass. `erase` draws once, for the whole batch, so
    that both passes see the same pixels.

    Of several ranks each computes the features of its own clips; the features of all are gathered, and every rank
    computes necks, classifiers and losses of the whole batch.
    """

    clip_features: ClipEncoder
    classify: Classifier
    criterion: Criterion
    memory_CE: Tensor | None
    runtime: Runtime
    num_parts: int = 1
    erase: Erasing | None = None
    batch_size: int = 0  # clips of all ranks together (B); 0: those of this process

    def __call__(
        self, clips: Tensor, pids: Tensor, camids: Tensor, scale: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """uint8 clips (b, T, 3, H, W), pids (b,), camids (b,) on the device -> loss terms; gradients are added.

        `scale` is what the gradient scaler does to the loss. Raises ValueError for fewer clips than parts.
        """
        if len(clips) < self.num_parts:
            raise ValueError(f"{len(clips)} clips cannot be computed in {self.num_parts} parts")
        clips = self.runtime.normalize(clips)
        if self.erase is not None:
            clips = self.erase(clips.flatten(0, 1)).view_as(clips)
        if self.num_parts > 1:
            return self._in_parts(clips, pids, camids, scale)
        losses = self._losses(self._encode(clips, camids), pids)
        scale(losses["total"]).backward()
        return losses

    def _encode(self, clips: Tensor, camids: Tensor) -> ClipFeatures:
        with self.runtime.autocast():
            return self.clip_features(clips, camids, self.memory_CE)

    def _losses(self, features: ClipFeatures, pids: Tensor) -> dict[str, Tensor]:
        gather = partial(self.runtime.ranks.gather, count=self.batch_size or len(pids))
        whole = ClipFeatures(*(None if f is None else gather(f) for f in features))
        with self.runtime.autocast():
            output = self.classify(whole)
        return self.criterion(output, gather(pids))

    def _in_parts(
        self, clips: Tensor, pids: Tensor, camids: Tensor, scale: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        parts = list(zip(clips.tensor_split(self.num_parts), camids.tensor_split(self.num_parts)))
        states, features = [], []  # of each part: random state before it, its ClipFeatures without a graph
        with torch.no_grad():
            for part in parts:
                states.append(_rng_state(self.runtime.device))
                features.append(self._encode(*part))
        batch = ClipFeatures(*(None if f[0] is None else torch.cat(f).requires_grad_() for f in zip(*features)))
        losses = self._losses(batch, pids)
        scale(losses["total"]).backward()
        grads = [f.grad.tensor_split(self.num_parts) for f in batch if f is not None]  # of each feature, by part
        # The ranks' gradients meet once, in the backward pass of the last part.
        not_yet = getattr(self.clip_features, "no_sync", nullcontext)
        for number, (part, state, grads_of_part) in enumerate(zip(parts, states, zip(*grads)), start=1):
            with not_yet() if number < len(parts) else nullcontext():
                with _replayed(state, self.runtime.device):
                    again = [f for f in self._encode(*part) if f is not None]
                trainable = [pair for pair in zip(again, grads_of_part) if pair[0].requires_grad]
                if trainable:
                    torch.autograd.backward(*zip(*trainable))
        return losses


def _rng_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """State of the random numbers of the CPU and, when the model is on a GPU, of that GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Within, the random numbers that followed `state` come again; outside, nothing counts as drawn."""
    cpu, gpu = state
    with torch.random.fork_rng(devices=[] if gpu is None else [device]):
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)
        yield

"""Clips: which frames of a tracklet they hold, how they are augmented, and which of them share a batch."""

from datasets.clips.buffers import ClipLoader as ClipLoader
from datasets.clips.dataset import ClipBatch as ClipBatch
from datasets.clips.dataset import EvalClips as EvalClips
from datasets.clips.dataset import TrainClips as TrainClips
from datasets.clips.dataset import keep_batch as keep_batch
from datasets.clips.identity_sampler import Draw as Draw
from datasets.clips.identity_sampler import IdentitySampler as IdentitySampler
from datasets.clips.replacement import read_nearest_into as read_nearest_into
from datasets.clips.sampling import dense_clips as dense_clips
from datasets.clips.transforms import ClipAugment as ClipAugment
from datasets.clips.transforms import Normalize as Normalize

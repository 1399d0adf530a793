"""Clips: which frames of a tracklet, how they are augmented, and in which batch they travel."""

from datasets.clips.buffers import ClipLoader as ClipLoader
from datasets.clips.dataset import ClipBatch as ClipBatch
from datasets.clips.dataset import EvalClips as EvalClips
from datasets.clips.dataset import TrainClips as TrainClips
from datasets.clips.dataset import keep_batch as keep_batch
from datasets.clips.identity_sampler import IdentitySampler as IdentitySampler
from datasets.clips.transforms import ClipAugment as ClipAugment
from datasets.clips.transforms import Normalize as Normalize

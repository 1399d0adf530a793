"""Training: one run from CLIP-Memory over epochs to the final test."""

from processor.training.epoch import train_one_epoch as train_one_epoch
from processor.training.resume import check_recipe as check_recipe
from processor.training.session import check_start as check_start
from processor.training.session import train_one as train_one
from processor.training.state import RunState as RunState

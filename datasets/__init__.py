"""Data sets as tracklets, and loaders of clips: the names that other rooms use."""

from datasets.build import build_erasing as build_erasing
from datasets.build import build_memory_loader as build_memory_loader
from datasets.build import build_test_loader as build_test_loader
from datasets.build import build_train_loader as build_train_loader
from datasets.build import cache_dir as cache_dir
from datasets.build import check_frames_present as check_frames_present
from datasets.build import check_split_key as check_split_key
from datasets.build import configured_splits as configured_splits
from datasets.build import items_of as items_of
from datasets.build import load_splits as load_splits
from datasets.build import split_numbers as split_numbers
from datasets.registry import find_dataset as find_dataset
from datasets.registry import official_name as official_name
from datasets.registry import parse_dataset_list as parse_dataset_list
from datasets.registry import plain_name as plain_name

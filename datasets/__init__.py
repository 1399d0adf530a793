from datasets.build import build_memory_loader as build_memory_loader
from datasets.build import build_test_loader as build_test_loader
from datasets.build import build_train_loader as build_train_loader
from datasets.build import check_frames_present as check_frames_present
from datasets.build import load_splits as load_splits
from datasets.build import plain_name as plain_name

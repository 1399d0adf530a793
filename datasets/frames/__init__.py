"""Single frames: where their bytes come from, and how they are decoded."""

from datasets.frames.modes import MOST_PIXELS as MOST_PIXELS
from datasets.frames.modes import check_size as check_size
from datasets.frames.modes import to_rgb as to_rgb
from datasets.frames.probe import REMARKS as REMARKS
from datasets.frames.probe import OpenedFrame as OpenedFrame
from datasets.frames.probe import open_frames as open_frames
from datasets.frames.reader import FILES as FILES
from datasets.frames.reader import FrameSource as FrameSource
from datasets.frames.reader import read_frame as read_frame
from datasets.frames.reader import read_frames_into as read_frames_into
from datasets.frames.store import FrameStore as FrameStore
from datasets.frames.store import frame_key as frame_key
from datasets.frames.store import frame_source as frame_source
from datasets.frames.store import write_store as write_store

"""Weight files: CLIP's, published TF-CLIP, checkpoints of ours; recognised by content, matched by name."""

from model.weights.cameras import Cameras as Cameras
from model.weights.cameras import TrainedCameras as TrainedCameras
from model.weights.file import WeightFile as WeightFile
from model.weights.file import read_weight_file as read_weight_file
from model.weights.load import ArchitectureError as ArchitectureError
from model.weights.load import fill_model as fill_model
from model.weights.load import load_pretrained as load_pretrained
from model.weights.load import load_weights as load_weights

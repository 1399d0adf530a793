"""Weight files: OpenAI's, published TF-CLIP, checkpoints of ours; recognised by content, matched by name."""

from model.weights.load import ArchitectureError as ArchitectureError
from model.weights.load import fill_model as fill_model
from model.weights.load import load_pretrained as load_pretrained
from model.weights.load import load_weights as load_weights

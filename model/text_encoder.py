"""CLIP's text tower (open_clip's) for the text baseline: prompt embeddings -> text features.

n prompts, S token positions (77), W text width, E projection width. Only this baseline needs open_clip_torch,
so it is imported where it is used.
"""

import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.encoder import OPENAI_FILES, timm_name, weights_file
from model.weights import read_weight_file
from utils.errors import InputError

logger = logging.getLogger(__name__)

_OLDEST = (3, 0)  # the transformer of 2.24 takes (S, n, W), and 2.26 lacks some of OpenAI's models
_PACKAGE = "open_clip_torch>=3.0"
NUM_POSITIONS = 77  # token positions of a text (S)
# The text half of OpenAI's CLIP; its blocks may also carry their attention mask, which is no weight.
_TEXT_WEIGHT = (
    r"positional_embedding|text_projection|(token_embedding|ln_final|transformer\.resblocks)\..*(weight|bias)"
)
_HEAD_WIDTH = 64
_SCRATCH_DEPTH = 12


class TextSizes(NamedTuple):
    """Sizes of a text tower."""

    width: int  # channels of a token (W)
    heads: int
    depth: int  # transformer blocks
    embed_width: int  # channels after the projection (E)


class TextTower(nn.Module):
    """open_clip's text transformer on embeddings in place of token ids; frozen, and always in eval mode."""

    def __init__(self, text: nn.Module) -> None:
        """`text` is open_clip's TextTransformer; `create_text_tower` makes it."""
        super().__init__()
        self.text = text.requires_grad_(False)
        self.width, self.embed_width = text.text_projection.shape  # channels of a token (W), after the projection (E)
        self.eval()

    def train(self, mode: bool = True) -> "TextTower":
        """A frozen tower has no training mode: `mode` changes nothing."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text.positional_embedding.device

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids (...) -> their embeddings (..., W), before the positions are added."""
        return self.text.token_embedding(tokens)

    def forward(self, prompts_nSW: Tensor, tokens_nS: Tensor) -> Tensor:
        """Prompt embeddings (n, S, W) and token ids (n, S) -> text features (n, E), not normalised.

        The ids only tell where a text ends: the end token has the highest id. The gradient passes to the prompts.
        """
        text = self.text
        x_nSW = prompts_nSW + text.positional_embedding
        x_nSW = text.ln_final(text.transformer(x_nSW, attn_mask=text.attn_mask))
        rows = torch.arange(len(x_nSW), device=x_nSW.device)
        return x_nSW[rows, tokens_nS.argmax(dim=1)] @ text.text_projection  # (n, W) @ (W, E)


def import_open_clip() -> ModuleType:
    """The package open_clip; raises InputError where it is not installed, or too old for `TextTower`."""
    need = f"MODEL.MEMORY text needs the package open_clip_torch (text tower and tokenizer): pip install '{_PACKAGE}'"
    try:
        import open_clip
    except ImportError as error:
        raise InputError(f"{need} ({error})") from None
    if tuple(int(part) for part in open_clip.__version__.split(".")[:2]) < _OLDEST:
        raise InputError(f"{need} (found {open_clip.__version__})")
    return open_clip


def create_tokenizer() -> Any:
    """CLIP's tokenizer: `encode(text)` gives ids, `sot_token_id` and `eot_token_id` are start and end."""
    return import_open_clip().SimpleTokenizer()


def text_sizes(name: str) -> TextSizes:
    """Sizes of the text tower that belongs to OpenAI's image encoder MODEL.NAME, from open_clip's model config.

    Raises InputError for an encoder of other weights.
    """
    architecture = timm_name(name).partition(".")[0]
    if architecture not in OPENAI_FILES:
        raise InputError(
            f"MODEL.NAME '{name}' has no text tower of OpenAI's, which MODEL.MEMORY text needs; take one of "
            f"{', '.join(OPENAI_FILES)}"
        )
    model = OPENAI_FILES[architecture].removesuffix(".pt").removesuffix("px")  # "ViT-L-14-336px.pt" -> "ViT-L-14-336"
    config = import_open_clip().get_model_config(f"{model}-quickgelu")
    text = config["text_cfg"]
    return TextSizes(text["width"], text["heads"], text["layers"], config["embed_dim"])


def scratch_text_sizes(embed_width: int, depth: int) -> TextSizes:
    """Sizes of a tower from scratch beside an image encoder of projection width E: as wide as E; depth 0 means 12."""
    return TextSizes(embed_width, embed_width // _HEAD_WIDTH, depth or _SCRATCH_DEPTH, embed_width)


def create_text_tower(sizes: TextSizes) -> TextTower:
    """open_clip's text tower with QuickGELU and random weights, frozen."""
    parts = import_open_clip().transformer
    text = parts.TextTransformer(
        context_length=NUM_POSITIONS,
        width=sizes.width,
        heads=sizes.heads,
        layers=sizes.depth,
        output_dim=sizes.embed_width,
        act_layer=parts.QuickGELU,
    )
    return TextTower(text)


def require_text_path(name: str, path: str) -> None:
    """Raise InputError when no file is named that could hold the text tower of MODEL.NAME."""
    if not path:
        raise InputError(
            "MODEL.MEMORY text needs MODEL.PRETRAIN_PATH: timm downloads the image tower alone; put "
            f"{weights_file(name)} there"
        )


def load_text_tower(tower: TextTower, name: str, path: str) -> None:
    """Fill `tower` with the text half of the CLIP file at `path`, the value of MODEL.PRETRAIN_PATH, in float32.

    `name` is MODEL.NAME, for advice. Raises MissingFileError, or InputError for an empty path, a file without a text
    tower or one of other sizes; the tower is left untouched then.
    """
    advice = f"put {weights_file(name)} there"
    require_text_path(name, path)
    file, own = read_weight_file(Path(path)), tower.text.state_dict()
    state = {weight: value for weight, value in file.state.items() if re.fullmatch(_TEXT_WEIGHT, weight)}
    if not state:
        raise InputError(
            f"MODEL.PRETRAIN_PATH: {path} ({file.kind} weights) holds no text tower, which MODEL.MEMORY text needs; "
            f"{advice}"
        )
    shapes, own_shapes = ({weight: tuple(value.shape) for weight, value in part.items()} for part in (state, own))
    for weight in sorted(shapes.keys() | own_shapes):
        if shapes.get(weight) != own_shapes.get(weight):
            there, here = (sizes.get(weight, "absent") for sizes in (shapes, own_shapes))
            raise InputError(
                f"MODEL.PRETRAIN_PATH: the text tower in {path} is of another size: {weight} {there}, {here} here; "
                f"{advice}"
            )
    tower.text.load_state_dict({weight: value.float() for weight, value in state.items()})
    logger.info("text tower: %d tensors loaded from %s", len(state), path)

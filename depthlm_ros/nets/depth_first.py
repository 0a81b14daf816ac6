# SPDX-License-Identifier: Apache-2.0
"""The embedded model: depth first, then words on the same features and the same depth.

`look` gives depth, its standard deviation and features without the language model. `read` makes one token of every
16 x 16 pixels, from the features, the depth and the rays, and projects them to the keys and values of every layer of
the language model: no layer changes them, since the features know the whole image already. Words therefore know the
geometry that the map shows, also if the map comes from another network.

EmbeddedConfig, build_embedded_model: a new model with random weights
save_checkpoint, load_checkpoint: config.json and model.safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.model_files.bundle import CONFIG_FILE
from depthlm_ros.model_files.checkpoint import EMBEDDED_FIELD, read_config
from depthlm_ros.model_files.safetensors_files import CHECKPOINT_FILE, read_tensor_header
from depthlm_ros.model_files.yaml_dataclass import build_dataclass
from depthlm_ros.nets.backbone import Backbone, PixelRule
from depthlm_ros.nets.depth_pyramid import DepthDecoder, DepthPyramid, DepthPyramidConfig, ray_map
from depthlm_ros.nets.efficientnet_lite import STRIDES, EfficientNetLite
from depthlm_ros.nets.positions import ImageSpan, PromptLayout, interleaved_rope, prefix_positions

ARCHITECTURE, HEAD = "depth_first", "bins"
TOKEN_PX, DEPTH_STRIDE = 16, 4
# Samples of the depth in one token, and frequencies of its sines.
SAMPLES = (TOKEN_PX // DEPTH_STRIDE) ** 2
FREQUENCIES = 6
ROPE_THETA = 10000.0
EMBEDDING_WEIGHT, TIED_WEIGHT = "vlm.model.embed_tokens.weight", "vlm.lm_head.weight"


@dataclass(frozen=True)
class EmbeddedConfig:
    """Sizes of the model. encoder: a key of efficientnet_lite.VERSIONS. width to feed_forward: of the language model.

    semantic_channels: how many of the features come from the encoder's last map, which knows best what things are.
    names: number of the names of things that the model tells for every token (training/embedded/names.py).
    """

    encoder: str = "lite0"
    depth: DepthPyramidConfig = field(default_factory=DepthPyramidConfig)
    vocab: int = 1536
    width: int = 192
    layers: int = 5
    heads: int = 4
    heads_kv: int = 2
    feed_forward: int = 512
    semantic_channels: int = 128
    names: int = 56


class LookOutput(NamedTuple):
    """depth_m, relative_std: float32 (B, H, W). features: (B, C, H/16, W/16)."""

    depth_m: torch.Tensor
    relative_std: torch.Tensor
    features: torch.Tensor


class TokenBuilder(nn.Module):
    """Features (B, C + names, h, w), ln z and ln relative std at stride 4 (B, 4h, 4w) -> tokens (B, h * w, width).

    The last channels of the features are the probabilities of the names. Their weights can begin as the embeddings of
    these names (`begin_with_words`): an image token then enters the language model as if it were the word.
    """

    def __init__(self, channels: int, names: int, width: int, focal_px: float) -> None:
        super().__init__()
        self.focal_px, self.channels = focal_px, channels
        self.features = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(channels)
        self.names = nn.Linear(names, width, bias=False)
        self.geometry = nn.Linear(SAMPLES + 6 + 2 * 3 * FREQUENCIES, width)
        self.mix = nn.Linear(width, width)

    def forward(self, features: torch.Tensor, ln_z: torch.Tensor, ln_std: torch.Tensor) -> torch.Tensor:
        seen = features.flatten(2).transpose(1, 2).to(self.norm.weight.dtype)
        tokens = self.features(self.norm(seen[..., : self.channels])) + self.names(seen[..., self.channels :])
        geometry = self._geometry(ln_z, ln_std).to(tokens.dtype)
        return tokens + self.mix(functional.relu(self.geometry(geometry)))

    def _geometry(self, ln_z: torch.Tensor, ln_std: torch.Tensor) -> torch.Tensor:
        """Returns (B, N, ...): the samples of ln z around their mean, mean, ln std, ray, position, and sines."""
        cell = TOKEN_PX // DEPTH_STRIDE
        samples = functional.pixel_unshuffle(ln_z[:, None], cell)
        mean = samples.mean(1, keepdim=True)
        std = functional.avg_pool2d(ln_std[:, None], cell)
        rows, columns = mean.shape[2:]
        ray = ray_map(rows, columns, TOKEN_PX, self.focal_px).to(mean).expand(len(mean), -1, -1, -1)
        place = place_map(rows, columns).to(mean).expand(len(mean), -1, -1, -1)
        ln_range = mean + 0.5 * (1 + ray.square().sum(1, keepdim=True)).log()
        waves = torch.cat([ln_range, place], 1)
        # From one period over everything that can be (ln 100 m; the whole picture) to one of a seventh of a unit.
        phases = torch.cat([waves * (0.7 * math.pi * 2.0**power) for power in range(FREQUENCIES)], 1)
        parts = [samples - mean, mean, std, ray, place, phases.sin(), phases.cos()]
        return torch.cat(parts, 1).flatten(2).transpose(1, 2)


def place_map(rows: int, columns: int) -> torch.Tensor:
    """Returns float32 (1, 2, rows, columns): the centres of cells as shares of width and height."""
    x, y = ((torch.arange(count) + 0.5) / count for count in (columns, rows))
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)])[None]


class DepthFirstModel(Backbone):
    """An encoder, a depth decoder and a small Qwen3 that reads both."""

    depth_first = True

    def __init__(self, config: EmbeddedConfig, pad_id: int) -> None:
        super().__init__()
        self.config, self.pad_id = config, pad_id
        self.depth_head = None
        self.pixels = PixelRule()
        self.encoder = EfficientNetLite(config.encoder)
        self.decoder = DepthDecoder(self.encoder.channels, config.depth)
        self.semantic = nn.Conv2d(self.encoder.channels[3], config.semantic_channels, 1)
        self.feature_channels = self.encoder.channels[2] + config.depth.channels[2] + config.semantic_channels
        self.names = nn.Linear(self.feature_channels, config.names)
        # Nearly every name is absent from nearly every token.
        nn.init.constant_(self.names.bias, -5.0)
        self.token_builder = TokenBuilder(self.feature_channels, config.names, config.width, config.depth.focal_px)
        self.vlm = Qwen3ForCausalLM(language_config(config, pad_id))

    @property
    def language(self) -> nn.Module:
        return self.vlm.model

    @property
    def pixels_per_token(self) -> int:
        return TOKEN_PX

    @property
    def canvas_multiple_px(self) -> int:
        return STRIDES[-1]

    def image_span(self, size_px: tuple[int, int]) -> ImageSpan:
        """Returns what an image occupies. It advances positions by the tokens of its longer side."""
        columns, rows = (extent // TOKEN_PX for extent in size_px)
        return ImageSpan((rows, columns), rows * columns, max(rows, columns))

    def see(self, image: torch.Tensor) -> tuple[DepthPyramid, torch.Tensor]:
        """Returns the decoder's output for image, uint8 (B, H, W, 3), and the features (B, C, H/16, W/16)."""
        maps = self.encoder(image)
        pyramid = self.decoder(maps)
        semantic = functional.interpolate(
            self.semantic(maps[3]), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return pyramid, torch.cat([maps[2], pyramid.tokens, semantic], 1)

    def empty_features(self, size_px: tuple[int, int]) -> torch.Tensor:
        """Returns zeros in the form of the features of one image of this size (width, height)."""
        columns, rows = (extent // TOKEN_PX for extent in size_px)
        return self.semantic.weight.new_zeros(1, self.feature_channels + self.config.names, rows, columns)

    def name_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Returns (B, N, names): for every token, the logits of the names of what it shows."""
        return self.names(features.flatten(2).transpose(1, 2))

    def begin_with_words(self, name_ids: Sequence[int]) -> None:
        """Sets the weights of the names to the embeddings of words. name_ids: the token id of each name."""
        with torch.no_grad():
            embeddings = self.embed(torch.tensor(list(name_ids), device=self.names.weight.device))
            self.token_builder.names.weight.copy_(embeddings.T)

    def look(self, image: torch.Tensor) -> LookOutput:
        """Returns depth, relative standard deviation and features of image, uint8 (B, H, W, 3)."""
        pyramid, features = self.see(image)
        # Interpolated in ln z, as it was trained.
        ln_z, ln_std = (upsample(side) for side in (pyramid.ln_z, pyramid.ln_std.log()))
        names = self.name_logits(features).sigmoid().transpose(1, 2).unflatten(2, features.shape[2:])
        return LookOutput(ln_z.exp(), ln_std.exp(), torch.cat([features, names], 1))

    def build_tokens(self, features: torch.Tensor, depth_m: torch.Tensor, relative_std: torch.Tensor) -> torch.Tensor:
        """Returns the tokens (B, N, width) of an image from its features, depth and relative std (B, H, W)."""
        ln_z, ln_std = (
            functional.avg_pool2d(side.log()[:, None], DEPTH_STRIDE)[:, 0] for side in (depth_m, relative_std)
        )
        return self.token_builder(features, ln_z, ln_std)

    def prefix_rope(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin (1, P, head_dim) of the prefix: rows and columns of an image turn parts of their own."""
        inverse = self.language.rotary_emb.inv_freq
        positions = prefix_positions(layout).to(inverse.device)
        third = len(inverse) // 3
        cos, sin = interleaved_rope(positions, inverse, (len(inverse) - 2 * third, third, third))
        weight = self.language.norm.weight
        return cos[None].to(weight), sin[None].to(weight)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Resizes (B, h, w) to (B, 4h, 4w), bilinear."""
    return functional.interpolate(x[:, None], scale_factor=float(DEPTH_STRIDE), mode="bilinear", align_corners=False)[
        :, 0
    ]


def language_config(config: EmbeddedConfig, pad_id: int) -> Qwen3Config:
    """Returns the configuration of the language model."""
    return Qwen3Config(
        vocab_size=config.vocab,
        hidden_size=config.width,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads_kv,
        head_dim=config.width // config.heads,
        max_position_embeddings=2048,
        pad_token_id=pad_id,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )


def build_embedded_model(config: EmbeddedConfig, pad_id: int) -> DepthFirstModel:
    """Returns a model with random weights, which torch's global seed decides. pad_id: token id."""
    return DepthFirstModel(config, pad_id)


def save_checkpoint(model: DepthFirstModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes configuration and weights. The model in memory is rounded to dtype too, and so equals the saved one."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).to(parameter.dtype))
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    del tensors[TIED_WEIGHT]
    save_file(tensors, folder / CHECKPOINT_FILE, metadata={"format": "pt"})
    config = {"model_type": ARCHITECTURE, "pad_token_id": model.pad_id, EMBEDDED_FIELD: asdict(model.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def load_checkpoint(folder: Path) -> DepthFirstModel:
    """Returns the model in float32. Raises BadBundle if files are missing or do not fit each other."""
    try:
        config = read_config(folder)
        values, pad_id = config[EMBEDDED_FIELD], config["pad_token_id"]
        if not isinstance(values, dict) or not isinstance(pad_id, int):
            raise ValueError(f"{EMBEDDED_FIELD} is {values!r}, pad_token_id is {pad_id!r}")
        sizes = build_dataclass(EmbeddedConfig, values, str(folder / CONFIG_FILE))
        read_tensor_header(folder / CHECKPOINT_FILE)
        tensors = load_file(folder / CHECKPOINT_FILE)
        model = DepthFirstModel(sizes, pad_id)
    except (SetupError, OSError, KeyError, TypeError, ValueError) as exc:
        raise BadBundle(
            f"{folder} holds no complete checkpoint ({exc}). If it is an engine, which has no checkpoint, name the "
            "model that it was built from."
        ) from exc
    state = {name: tensor.float() for name, tensor in tensors.items()}
    state[TIED_WEIGHT] = state.get(EMBEDDING_WEIGHT, model.vlm.lm_head.weight)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as exc:  # a tensor of another shape
        raise BadBundle(f"{folder / CHECKPOINT_FILE} does not fit {CONFIG_FILE} ({exc}): restore both files.") from exc
    if missing or unexpected:
        raise BadBundle(
            f"{folder / CHECKPOINT_FILE}: missing {missing[:3]}, unexpected {unexpected[:3]}: restore the file or "
            "train the model again."
        )
    return model

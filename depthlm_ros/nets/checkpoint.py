"""Checkpoints on disk: config.json (Qwen3-VL's own plus the depth head's sizes) and model.safetensors.

The language and vision weights carry transformers' names, so Qwen3VLForConditionalGeneration loads them too; the
depth head's names begin with "depth_head.".

A small Qwen3-VL with a depth head, from a plain dictionary of sizes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig

from depthlm_ros.errors import BadBundle
from depthlm_ros.nets.depth_heads import DptConfig
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
HEAD_KEY = "depth_head_config"


def save_checkpoint(model: Qwen3VLDepth, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes config and weights; the model itself is rounded to dtype, so that what is kept is what was saved. Raises
    BadBundle for a model without a depth head, which transformers itself saves."""
    if model.depth_head is None:
        raise BadBundle("a model without a depth head is not kept here: save it with transformers' save_pretrained.")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).to(parameter.dtype))
    tensors = {file_name(name): tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    if model.vlm.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = model.vlm.config.to_dict() | {HEAD_KEY: asdict(model.depth_head.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def load_checkpoint(folder: Path) -> Qwen3VLDepth:
    """The model in float32. Raises BadBundle if files are missing or do not fit each other."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        head = config.pop(HEAD_KEY)
        tensors = load_file(folder / WEIGHTS_FILE)
        model = Qwen3VLDepth(
            Qwen3VLConfig.from_dict(config), DptConfig(**head | {"projected": tuple(head["projected"])})
        )
    except (OSError, KeyError, ValueError) as exc:
        raise BadBundle(
            f"{folder} holds no whole checkpoint ({exc}); an engine has none: name the model that it was built from."
        ) from exc
    state = {module_name(name): tensor.float() for name, tensor in tensors.items()}
    if model.vlm.config.tie_word_embeddings:
        state["vlm.lm_head.weight"] = state["vlm.model.language_model.embed_tokens.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise BadBundle(
            f"{folder / WEIGHTS_FILE}: missing {missing[:3]}, unexpected {unexpected[:3]}: restore or train it again."
        )
    return model


def file_name(parameter: str) -> str:
    """Name in the file of a parameter of Qwen3VLDepth."""
    return parameter.removeprefix("vlm.")


def module_name(name: str) -> str:
    """Inverse of file_name."""
    return name if name.startswith("depth_head.") else f"vlm.{name}"


@dataclass(frozen=True)
class SmallConfig:
    """Sizes of the model; the defaults are the embedded model's."""

    vocab: int = 1024
    patch_px: int = 8
    vision_width: int = 192
    vision_depth: int = 6
    vision_heads: int = 4
    deepstack: tuple[int, ...] = (1, 3, 4)
    width: int = 192
    depth: int = 5
    heads: int = 4
    heads_kv: int = 2
    feed_forward: int = 512
    head_projected: tuple[int, int, int, int] = (32, 48, 64, 96)
    head_features: int = 40


def build(config: SmallConfig, image_id: int, pad_id: int) -> Qwen3VLDepth:
    """A randomly initialised model (torch's global seed decides)."""
    head_dim = config.width // config.heads
    third = head_dim // 6
    vlm = Qwen3VLConfig(
        text_config={
            "vocab_size": config.vocab,
            "hidden_size": config.width,
            "intermediate_size": config.feed_forward,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads_kv,
            "head_dim": head_dim,
            "max_position_embeddings": 2048,
            "pad_token_id": pad_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head_dim // 2 - 2 * third, third, third],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": config.vision_depth,
            "hidden_size": config.vision_width,
            "intermediate_size": 4 * config.vision_width,
            "num_heads": config.vision_heads,
            "patch_size": config.patch_px,
            "out_hidden_size": config.width,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": list(config.deepstack),
        },
        image_token_id=image_id,
        video_token_id=image_id,
        tie_word_embeddings=True,
    )
    head = DptConfig(config.width, config.head_projected, config.head_features, pixels_per_token=2 * config.patch_px)
    return Qwen3VLDepth(vlm, head)

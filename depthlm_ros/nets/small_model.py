"""The embedded model and others of its kind: a small Qwen3-VL with a depth head, built and kept on disk.

SmallModelConfig, build_small_model: a new model with random weights
save_checkpoint, load_checkpoint: config.json (Qwen3-VL's own fields and the depth head's sizes) and model.safetensors

The language and vision weights have transformers' names, so Qwen3VLForConditionalGeneration loads them too. The names
of the depth head's weights begin with "depth_head.".
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig

from depthlm_ros.errors import BadBundle, SetupError
from depthlm_ros.model_files.bundle import CONFIG_FILE
from depthlm_ros.model_files.checkpoint import EMBEDDED_HEAD_FIELD, read_config
from depthlm_ros.model_files.safetensors_files import CHECKPOINT_FILE, HEAD_PREFIX
from depthlm_ros.model_files.yaml_dataclass import build_dataclass
from depthlm_ros.nets.depth_heads import DptConfig
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth


@dataclass(frozen=True)
class SmallModelConfig:
    """Sizes of a small model. The defaults are those of the embedded model."""

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


def build_small_model(config: SmallModelConfig, image_id: int, pad_id: int) -> Qwen3VLDepth:
    """Returns a model with random weights, which torch's global seed decides. image_id, pad_id: token ids."""
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


def save_checkpoint(model: Qwen3VLDepth, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes configuration and weights. The model in memory is rounded to dtype too, so that it equals the saved one.

    Raises BadBundle for a model without a depth head: transformers itself saves such a model.
    """
    if model.depth_head is None:
        raise BadBundle("a model without a depth head cannot be saved here: use transformers' save_pretrained.")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).to(parameter.dtype))
    tensors = {_name_in_file(name): tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    if model.vlm.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / CHECKPOINT_FILE, metadata={"format": "pt"})
    config = model.vlm.config.to_dict() | {EMBEDDED_HEAD_FIELD: asdict(model.depth_head.config)}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def load_checkpoint(folder: Path) -> Qwen3VLDepth:
    """Returns the model in float32. Raises BadBundle if files are missing or do not fit each other."""
    try:
        config = read_config(folder)
        head = config.pop(EMBEDDED_HEAD_FIELD)
        if not isinstance(head, dict):
            raise ValueError(f"{EMBEDDED_HEAD_FIELD} is {head!r}")
        head_config = build_dataclass(DptConfig, head, str(folder / CONFIG_FILE))
        tensors = load_file(folder / CHECKPOINT_FILE)
        model = Qwen3VLDepth(Qwen3VLConfig.from_dict(config), head_config)
    except (SetupError, OSError, KeyError, ValueError) as exc:
        raise BadBundle(
            f"{folder} holds no complete checkpoint ({exc}). If it is an engine, which has no checkpoint, name the "
            "model that it was built from."
        ) from exc
    state = {_name_in_module(name): tensor.float() for name, tensor in tensors.items()}
    if model.vlm.config.tie_word_embeddings:
        state["vlm.lm_head.weight"] = state["vlm.model.language_model.embed_tokens.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise BadBundle(
            f"{folder / CHECKPOINT_FILE}: missing {missing[:3]}, unexpected {unexpected[:3]}: restore the file or "
            "train the model again."
        )
    return model


def _name_in_file(parameter: str) -> str:
    return parameter.removeprefix("vlm.")


def _name_in_module(name: str) -> str:
    return name if name.startswith(HEAD_PREFIX) else f"vlm.{name}"

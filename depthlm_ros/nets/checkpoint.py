"""Checkpoints on disk: config.json (Qwen3-VL's own plus the depth head's sizes) and model.safetensors.

The language and vision weights carry transformers' names, so Qwen3VLForConditionalGeneration loads them too; the
depth head's names begin with "depth_head.".
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig

from depthlm_ros.errors import BadBundle
from depthlm_ros.nets.dpt import DptConfig
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

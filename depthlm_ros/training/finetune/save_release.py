"""Writes a trained model as the published checkpoints are laid out, so that `load_model` and transformers run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from torch.distributed.tensor import DTensor

from depthlm_ros.file_io import write_atomically
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import OWN_FILE
from depthlm_ros.nets.depth_heads import HEAD_PREFIX, MlpHead, released_parameter_name
from depthlm_ros.training.finetune.model import BaseCheckpoint, FinetuneModel
from depthlm_ros.training.finetune.recipe import FinetuneRecipe

CONFIG_FILE = "config.json"
HISTORY_FILE = "training.json"
MAX_SHARD_SIZE = "5GB"
# Files of a checkpoint beside its weights; those that the base has are copied.
COMPANION_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
)


def save_release(
    model: FinetuneModel,
    state: Mapping[str, torch.Tensor],
    base: BaseCheckpoint,
    recipe: FinetuneRecipe,
    out: Path,
    history: Mapping[str, object],
) -> None:
    """Writes weights, configuration, tokenizer, processor, how the model is asked (depthlm.yaml) and how it was made
    (training.json). state: all weights of the model (`gather_state`)."""
    out.mkdir(parents=True, exist_ok=True)
    model.vlm.save_pretrained(out, state_dict=released_state(model, state, base.spec), max_shard_size=MAX_SHARD_SIZE)
    _correct_config(model, out / CONFIG_FILE, base.spec)
    for name in COMPANION_FILES:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, out / name)
    write_atomically(out / OWN_FILE, yaml.safe_dump(_model_fields(base, recipe), sort_keys=False))
    write_atomically(out / HISTORY_FILE, json.dumps({"recipe": asdict(recipe), **history}, indent=1) + "\n")


def gather_state(model: FinetuneModel, keep: bool) -> dict[str, torch.Tensor]:
    """Returns all weights in memory, gathered from the processes that share them; nothing unless keep.

    Every process must call this.
    """
    state: dict[str, torch.Tensor] = {}
    gathered: dict[int, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            # Tied weights are one parameter: they stay one tensor.
            state[name] = gathered.setdefault(id(tensor), whole.detach().cpu())
    return state


def released_state(model: FinetuneModel, state: Mapping[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Returns the tensors by their released names: the backbone in the model's dtype, the head in float32.

    One tensor under two names (tied embeddings) is stored once.
    """
    dtype = getattr(torch, spec.dtype)
    names: dict[int, str] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {
        released_name_in(model, name): state[name] if name.startswith(HEAD_PREFIX) else state[name].to(dtype)
        for name in names.values()
    }


def released_name_in(model: FinetuneModel, name: str) -> str:
    """Returns the released name of a parameter of the model."""
    if name.startswith(HEAD_PREFIX):
        assert model.depth_head is not None
        return released_parameter_name(model.depth_head, name.removeprefix(HEAD_PREFIX))
    return name.removeprefix("vlm.")


def _model_fields(base: BaseCheckpoint, recipe: FinetuneRecipe) -> dict[str, str]:
    """Returns how the model is asked, as the fields of a model file."""
    meaning = {} if recipe.data.depth_type == "label" else {"depth_type": recipe.data.depth_type}
    return {
        "like": recipe.model,
        "title": f"{recipe.model}, of one's own training",
        "licence": "those of the model it started from and of the data it was trained on",
        "hub": "",
        "system": base.spec.system,
        "head": base.spec.head,
        **meaning,
    }


def _correct_config(model: FinetuneModel, path: Path, spec: ModelSpec) -> None:
    """Writes the dtype of the file into config.json, and the head as DepthVLM describes it."""
    config, head = json.loads(path.read_text()), model.depth_head
    config["dtype"] = spec.dtype
    if head is not None:
        config["depth_head_type"] = spec.head
    if isinstance(head, MlpHead):
        config |= {"depth_head_mlp_hidden": head.config.hidden, "depth_head_feature_mode": head.config.features}
    write_atomically(path, json.dumps(config, indent=1, sort_keys=True) + "\n")

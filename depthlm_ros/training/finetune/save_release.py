"""What was learnt, as the published checkpoints are laid out, so that `load_model` and transformers run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.distributed.tensor import DTensor

from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import OWN_FILE
from depthlm_ros.nets.depth_heads import PREFIX, MlpHead, released_name
from depthlm_ros.training.finetune.model import Base, Student
from depthlm_ros.training.finetune.recipe import Recipe

CONFIG = "config.json"
HISTORY = "training.json"
# What belongs to a checkpoint beside its weights, where its base has it.
COMPANIONS = (
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


def release(
    student: Student,
    state: Mapping[str, torch.Tensor],
    base: Base,
    recipe: Recipe,
    out: Path,
    history: Mapping[str, Any],
) -> None:
    """Writes weights (those of the backbone in the precision of the model's spec), configuration, tokenizer, processor,
    how the model is asked (depthlm.yaml) and how it was made (training.json). state: the whole student's."""
    out.mkdir(parents=True, exist_ok=True)
    student.vlm.save_pretrained(out, state_dict=released_state(student, state, base.spec), max_shard_size="5GB")
    _settle_config(student, out / CONFIG, base.spec)
    for name in COMPANIONS:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, out / name)
    (out / OWN_FILE).write_text(yaml.safe_dump(_own(base, recipe), sort_keys=False), encoding="utf-8")
    (out / HISTORY).write_text(json.dumps({"recipe": asdict(recipe), **history}, indent=1) + "\n", encoding="utf-8")


def whole_state(student: Student, keep: bool) -> dict[str, torch.Tensor]:
    """All weights, in memory, gathered tensor by tensor from the processes that share them; empty unless keep. Every
    process must call this."""
    state: dict[str, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}
    for name, tensor in student.state_dict(keep_vars=True).items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            # Tied weights are one parameter: they stay one tensor.
            state[name] = seen.setdefault(id(tensor), whole.detach().cpu())
    return state


def released_state(student: Student, state: Mapping[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    """The tensors by their released names; the head stays in float32, as it computes. One tensor under two names (tied
    embeddings) is stored once."""
    dtype = getattr(torch, spec.dtype)
    once: dict[int, str] = {}
    for name, tensor in state.items():
        once.setdefault(id(tensor), name)
    return {
        released(student, name): state[name] if name.startswith(PREFIX) else state[name].to(dtype)
        for name in once.values()
    }


def released(student: Student, name: str) -> str:
    """Released name of a parameter of the student."""
    if name.startswith(PREFIX):
        assert student.depth_head is not None
        return released_name(student.depth_head, name.removeprefix(PREFIX))
    return name.removeprefix("vlm.")


def _own(base: Base, recipe: Recipe) -> dict[str, Any]:
    """How the model is asked, as a model file says it."""
    meant = {} if recipe.data.depth_type == "label" else {"depth_type": recipe.data.depth_type}
    return {
        "like": recipe.model,
        "title": f"{recipe.model}, of one's own training",
        "licence": "those of the model it started from and of the data it was trained on",
        "hub": "",
        "system": base.spec.system,
        "head": base.spec.head,
        **meant,
    }


def _settle_config(student: Student, path: Path, spec: ModelSpec) -> None:
    """The precision is that of the file; a head is described as DepthVLM describes it."""
    facts, head = json.loads(path.read_text()), student.depth_head
    facts["dtype"] = spec.dtype
    if head is not None:
        facts["depth_head_type"] = spec.head
    if isinstance(head, MlpHead):
        facts |= {"depth_head_mlp_hidden": head.config.hidden, "depth_head_feature_mode": head.config.features}
    path.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")

"""From a base checkpoint to a student: weights, depth head, what of it learns, and how it is spoken to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.utils import logging

from depthlm_ros.errors import BadBundle
from depthlm_ros.families.chat import chat_named
from depthlm_ros.finetune.batches import Collator, Packer
from depthlm_ros.finetune.lesson import Tokens
from depthlm_ros.finetune.rows import Speech
from depthlm_ros.finetune.settings import Recipe
from depthlm_ros.finetune.student import Student
from depthlm_ros.model_files.bundle import TOKENIZER_FILE, Bundle
from depthlm_ros.model_files.checkpoint import Checkpoint, find_model
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import spec_named
from depthlm_ros.nets.depth_heads import PREFIX, DptConfig, DptHead, MlpConfig, MlpHead, released_head, released_name
from depthlm_ros.nets.loading import check_fit, fill, read_facts, stored_tensors, token_id
from depthlm_ros.nets.pixels import read_pixel_rule

KINDS = {
    "llava": LlavaForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
# Where a recipe begins that goes on from what another one made.
OWN_RUNS = "runs/"
IMAGE_TOKENS = {"llava": "[IMG]", "qwen2_5_vl": "<|image_pad|>", "qwen3_vl": "<|image_pad|>"}


@dataclass(frozen=True)
class Base:
    """Where training starts. folder: of the checkpoint; spec: of the model that is made of it, with the sizes of that
    checkpoint's own image processor and the system message of training."""

    folder: Path
    spec: ModelSpec


def find_base(recipe: Recipe, base: str) -> Base:
    """base: a model's name, its folder, or NAME=FOLDER. Raises UnknownName, BadBundle."""
    made = spec_named(recipe.model)
    given = Path(base).expanduser()
    if base.startswith(OWN_RUNS) and not given.is_dir():
        raise BadBundle(f"there is no {base}: train {given.name} first, or say where it is (--model FOLDER).")
    source = find_model(base) if not given.is_dir() else find_model(f"{recipe.model}={base}")
    if isinstance(source, Bundle):
        raise BadBundle(f"{base} is an exported model, which cannot be trained: give the checkpoint that it is from.")
    if source.spec.architecture != made.architecture:
        raise BadBundle(
            f"{base} is a {source.spec.architecture}, but {recipe.model} is a {made.architecture}: give another base."
        )
    source = find_model(f"{recipe.model}={source.folder}")
    assert isinstance(source, Checkpoint)
    spec = source.spec if recipe.system is None else replace(source.spec, system=recipe.system)
    return Base(source.folder, replace(spec, head=recipe.train.head))


def load_student(base: Base, recipe: Recipe) -> Student:
    """The model in float32 (bf16 is a matter of the steps), only that learning which the recipe trains. Raises
    BadBundle if weights are missing."""
    vlm = load_weights(base, recipe.train.attention)
    head = None
    if recipe.train.head:
        torch.manual_seed(recipe.seed)
        head = depth_head(base, recipe.train.head, vlm.config.text_config.hidden_size)
    student = Student(vlm, head, recipe.train.depth_weight)
    freeze(student, recipe.train.trains)
    if recipe.train.gradient_checkpointing:
        # Called by its older name until transformers 5.22.
        enable = getattr(vlm, "activation_checkpointing_enable", None) or vlm.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return student


def load_weights(base: Base, attention: str) -> Any:
    """By transformers' from_pretrained; a tensor too few, or too many but those of a depth head, is an error."""
    with quietly():
        vlm, report = KINDS[base.spec.architecture].from_pretrained(
            base.folder,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    odd = [name for name in report["unexpected_keys"] if not name.startswith(PREFIX) and "inv_freq" not in name]
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"], *odd]))
    if wrong:
        raise BadBundle(f"{base.folder}: {len(wrong)} tensors are missing, odd or of another size, as {wrong[0]}.")
    return vlm


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' table of tensors that it has no place for: those of a depth head are no news."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def depth_head(base: Base, kind: str, width: int) -> nn.Module:
    """DepthVLM's head: that of the checkpoint where it has one, else a new one (torch's usual initialisation; the
    released one is unknown)."""
    stored = {name: tensor for name, tensor in stored_tensors(base.folder).items() if name.startswith(PREFIX)}
    if not stored:
        side = base.spec.pixels_per_token
        return DptHead(DptConfig(width, pixels_per_token=side)) if kind == "dpt" else _mlp(width, side)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    head = released_head(kind, shapes, read_facts(base.folder), width, base.spec.pixels_per_token)
    assert head is not None
    names = {name: released_name(head, name) for name in head.state_dict()}
    expected = {names[name]: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    check_fit(base.folder, stored, expected)
    fill(head, stored, names, torch.float32, torch.device("cpu"))
    return head


def _mlp(width: int, side: int) -> nn.Module:
    return MlpHead(MlpConfig(width, pixels_per_token=side))


def freeze(student: Student, trains: Iterable[str]) -> None:
    """Lets only the named parts learn: "vision" (tower and what leads into the language model), "language" (with its
    output layer), "head"."""
    wanted = set(trains)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(part_of(name) in wanted)


def part_of(parameter: str) -> str:
    """Which part a parameter of a Student belongs to."""
    if parameter.startswith(PREFIX):
        return "head"
    seen = ("vlm.model.visual.", "vlm.model.vision_tower.", "vlm.model.multi_modal_projector.")
    return "vision" if parameter.startswith(seen) else "language"


def speech_of(base: Base) -> Speech:
    """How the model is spoken to in training."""
    spec, path = base.spec, base.folder / TOKENIZER_FILE
    image_id = token_id(base.folder, IMAGE_TOKENS[spec.architecture])
    row_ids = None
    if spec.architecture == "llava":
        row_ids = token_id(base.folder, "[IMG_BREAK]"), token_id(base.folder, "[IMG_END]")
    return Speech(Tokenizer.from_file(str(path)), chat_named(spec.chat, spec.system), spec.chat, image_id, row_ids)


def tokens_of(base: Base) -> Tokens:
    return Tokens(base.spec.pixels_per_token, base.spec.architecture == "llava")


def collator_of(base: Base, speech: Speech) -> Collator:
    """What makes batches for this architecture."""
    llava = base.spec.architecture == "llava"
    side = base.spec.pixels_per_token
    packer = Packer(read_pixel_rule(base.folder), side if llava else side // 2, 0 if llava else 2)
    return Collator(packer, token_id(base.folder, speech.chat.end), speech.image_id, llava)

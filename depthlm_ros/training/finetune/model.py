"""transformers' own model, with DepthVLM's depth head beside it and the losses of the recipes on top.

From a base checkpoint to a student: weights, depth head, what of it learns, and how it is spoken to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from transformers.utils import ModelOutput, logging

from depthlm_ros.errors import BadBundle
from depthlm_ros.families.chat import chat_named
from depthlm_ros.model_files.bundle import TOKENIZER_FILE, Bundle
from depthlm_ros.model_files.checkpoint import Checkpoint, find_model
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import spec_named
from depthlm_ros.nets.depth_heads import PREFIX, DptConfig, DptHead, MlpConfig, MlpHead, released_head, released_name
from depthlm_ros.nets.loading import check_fit, fill, read_facts, stored_tensors, token_id
from depthlm_ros.nets.pixels import read_pixel_rule
from depthlm_ros.training.finetune.collator import Collator, Packer
from depthlm_ros.training.finetune.dataset import Tokens
from depthlm_ros.training.finetune.packing import Speech
from depthlm_ros.training.finetune.recipe import Recipe
from depthlm_ros.training.losses import next_token_of_states, silog_of_maps


class Student(nn.Module):
    """vlm: transformers' model for conditional generation, untouched, so that its names and its forward are those of
    the released checkpoints. depth_head: None, or a module (four sequences of tokens, grid) -> depth_m, of a Qwen3-VL.
    """

    # Each micro-batch's loss is a mean: the Trainer divides by their number.
    accepts_loss_kwargs = False

    def __init__(self, vlm: Any, depth_head: nn.Module | None = None, depth_weight: float = 1.0) -> None:
        super().__init__()
        self.vlm, self.depth_head, self.depth_weight = vlm, depth_head, depth_weight

    @property
    def _no_split_modules(self) -> Sequence[str]:
        """What FSDP keeps together."""
        return self.vlm._no_split_modules

    def forward(
        self,
        input_ids: torch.Tensor,
        next_id: torch.Tensor,
        depth_m: Sequence[torch.Tensor] | None = None,
        **given: Any,
    ) -> ModelOutput:
        """A batch of `Collator` -> loss, text and depth (its parts; NaN where there is none)."""
        states, maps = self.read(input_ids, given)
        depth = silog_of_maps(maps, depth_m) if depth_m is not None and maps else None
        text = next_token_of_states(states, self.vlm.lm_head, next_id) if (next_id >= 0).any() else None
        parts = [loss for loss in (text, None if depth is None else self.depth_weight * depth) if loss is not None]
        if not parts:
            raise ValueError("a batch without anything to learn: no reply and no depth.")
        unknown = states.new_full((), float("nan"))
        told = [unknown if part is None else part.detach() for part in (text, depth)]
        return ModelOutput(loss=torch.stack([part.float() for part in parts]).sum(), text=told[0], depth=told[1])

    def read(self, input_ids: torch.Tensor, given: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Final states (B, T, C), and with a head depth_m (h, w) of every row's picture."""
        model = self.vlm.model
        if self.depth_head is None:
            return model(input_ids=input_ids, use_cache=False, **given).last_hidden_state, []
        # In DepthVLM's first stage nothing below the head learns: then nothing of it need be kept.
        learns = any(parameter.requires_grad for parameter in model.parameters())
        mergers = model.visual.deepstack_merger_list
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()), outputs_of(mergers) as deep:
            states = model(input_ids=input_ids, use_cache=False, **given).last_hidden_state
        return states, self.depth_maps(states, deep, input_ids == self.vlm.config.image_token_id, given)

    def depth_maps(
        self, states: torch.Tensor, deep: Sequence[torch.Tensor], in_image: torch.Tensor, given: dict[str, Any]
    ) -> list[torch.Tensor]:
        """states: (B, T, C); deep: the DeepStack tokens of all pictures after each other, by level; in_image: (B, T)
        says where a picture is."""
        assert self.depth_head is not None
        merge = self.vlm.config.vision_config.spatial_merge_size
        sizes = [(int(rows) // merge, int(columns) // merge) for _, rows, columns in given["image_grid_thw"].tolist()]
        levels = [level.split([rows * columns for rows, columns in sizes]) for level in deep]
        maps = []
        for index, size in enumerate(sizes):
            features = [*(level[index][None] for level in levels), states[index][in_image[index]][None]]
            # In the precision of its own weights: half precision would leave steps of 6 cm in the depth at 10 m.
            with torch.autocast(states.device.type, enabled=False):
                maps.append(self.depth_head(features, size)[0])
        return maps


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """What the modules give while this lasts, in the order of the modules, filled in when it ends: transformers'
    forward keeps the DeepStack tokens to itself."""
    found: dict[int, torch.Tensor] = {}

    def keep(index: int) -> Any:
        return lambda module, given, output: found.__setitem__(index, output)

    outputs: list[torch.Tensor] = []
    handles = [module.register_forward_hook(keep(index)) for index, module in enumerate(modules)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
        outputs.extend(found[index] for index in sorted(found))


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

# SPDX-License-Identifier: Apache-2.0
"""The model that is fine-tuned: transformers' own model, with DepthVLM's depth head and the losses of the recipes.

`find_base` finds the checkpoint that a training starts from, `load_finetune_model` loads it. `make_chat_encoder`,
`make_image_token_rule` and `make_collator` say how its architecture is written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.utils import ModelOutput, logging

from depthlm_ros.errors import BadBundle
from depthlm_ros.families.registry import chat_named
from depthlm_ros.model_files.bundle import ModelBundle
from depthlm_ros.model_files.checkpoint import ReleasedCheckpoint, find_model, read_config
from depthlm_ros.model_files.hf_cache import find_snapshot, is_hub_id
from depthlm_ros.model_files.safetensors_files import read_weight_files
from depthlm_ros.model_files.spec import ModelSpec
from depthlm_ros.model_files.spec_yaml import find_spec
from depthlm_ros.model_files.tokenizer_files import open_tokenizer
from depthlm_ros.nets.backbone import read_pixel_rule
from depthlm_ros.nets.depth_heads import (
    HEAD_PREFIX,
    DptConfig,
    DptHead,
    MlpConfig,
    MlpHead,
    build_released_head,
    released_parameter_name,
)
from depthlm_ros.nets.loading import check_tensors_fit, load_tensors, read_token_id
from depthlm_ros.training.finetune.chat_encoder import ChatEncoder
from depthlm_ros.training.finetune.collator import Collator, ImagePacker
from depthlm_ros.training.finetune.dataset import ImageTokenRule
from depthlm_ros.training.finetune.recipe import FinetuneRecipe
from depthlm_ros.training.losses import next_token_loss, silog_loss_of_maps
from depthlm_ros.training.packing import IGNORED

MODEL_CLASSES = {
    "llava": LlavaForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
IMAGE_TOKENS = {"llava": "[IMG]", "qwen2_5_vl": "<|image_pad|>", "qwen3_vl": "<|image_pad|>"}
VISION_PREFIXES = ("vlm.model.visual.", "vlm.model.vision_tower.", "vlm.model.multi_modal_projector.")
# A base of this folder was made by another recipe.
RUNS_FOLDER = "runs/"


class FinetuneModel(nn.Module):
    """vlm: transformers' model for conditional generation, unchanged, so that its names and its forward are those of
    the released checkpoints. depth_head: for a Qwen3-VL, a module (four sequences of tokens, grid) -> depth_m, or None.
    """

    # The loss of each micro-batch is a mean: the Trainer divides by their number.
    accepts_loss_kwargs = False

    def __init__(self, vlm: PreTrainedModel, depth_head: nn.Module | None = None, depth_weight: float = 1.0) -> None:
        super().__init__()
        self.vlm, self.depth_head, self.depth_weight = vlm, depth_head, depth_weight

    @property
    def _no_split_modules(self) -> Sequence[str]:
        """The classes that FSDP does not divide."""
        return self.vlm._no_split_modules

    def forward(
        self,
        input_ids: torch.Tensor,
        next_id: torch.Tensor,
        depth_m: Sequence[torch.Tensor] | None = None,
        **inputs: torch.Tensor,
    ) -> ModelOutput:
        """Takes a batch of `Collator`. Returns loss, and its parts text and depth (NaN if there is no such part)."""
        states, maps = self.run_vlm(input_ids, inputs)
        depth = silog_loss_of_maps(maps, depth_m) if depth_m is not None and maps else None
        text = None
        if (next_id != IGNORED).any():
            # Logits of learnt tokens only: a vocabulary is a hundred times as wide as a state.
            learnt = next_id != IGNORED
            text = next_token_loss(self.vlm.lm_head(states[learnt]), next_id[learnt])
        parts = [loss for loss in (text, None if depth is None else self.depth_weight * depth) if loss is not None]
        if not parts:
            raise ValueError("the batch has nothing to learn: neither a reply nor a depth map.")
        unknown = states.new_full((), float("nan"))
        text_value, depth_value = (unknown if part is None else part.detach() for part in (text, depth))
        loss = torch.stack([part.float() for part in parts]).sum()
        return ModelOutput(loss=loss, text=text_value, depth=depth_value)

    def run_vlm(
        self, input_ids: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the final states (B, T, C), and with a depth head depth_m (h, w) of the image of each row."""
        model = self.vlm.model
        if self.depth_head is None:
            return model(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state, []
        # In DepthVLM's first stage nothing below the head learns, so that nothing below it has to be kept.
        learns = any(parameter.requires_grad for parameter in model.parameters())
        mergers = model.visual.deepstack_merger_list
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()), record_outputs(mergers) as deep:
            states = model(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
        in_image = input_ids == self.vlm.config.image_token_id
        return states, self.predict_depth(states, deep, in_image, inputs["image_grid_thw"])

    def predict_depth(
        self, states: torch.Tensor, deep: Sequence[torch.Tensor], in_image: torch.Tensor, grids: torch.Tensor
    ) -> list[torch.Tensor]:
        """Returns depth_m (h, w) of each row's image.

        states: (B, T, C). deep: the DeepStack tokens of all images one after the other, by level. in_image: bool
        (B, T), True for the tokens of the image. grids: (B, 3), frames, rows and columns of patches.
        """
        assert self.depth_head is not None
        merge = self.vlm.config.vision_config.spatial_merge_size
        sizes = [(int(rows) // merge, int(columns) // merge) for _, rows, columns in grids.tolist()]
        levels = [level.split([rows * columns for rows, columns in sizes]) for level in deep]
        maps = []
        for index, size in enumerate(sizes):
            features = [*(level[index][None] for level in levels), states[index][in_image[index]][None]]
            # In the precision of the head's weights: half precision would give steps of 6 cm at a depth of 10 m.
            with torch.autocast(states.device.type, enabled=False):
                maps.append(self.depth_head(features, size)[0])
        return maps


@contextmanager
def record_outputs(modules: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Records the outputs of modules inside the block. The list is filled at its end, in the order of the modules.

    transformers' forward does not return the DeepStack tokens.
    """
    recorded: dict[int, torch.Tensor] = {}

    def hook(index: int) -> Callable[[nn.Module, object, torch.Tensor], None]:
        return lambda module, given, output: recorded.__setitem__(index, output)

    outputs: list[torch.Tensor] = []
    handles = [module.register_forward_hook(hook(index)) for index, module in enumerate(modules)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
        outputs.extend(recorded[index] for index in sorted(recorded))


@dataclass(frozen=True)
class BaseCheckpoint:
    """The checkpoint that a training starts from.

    spec: the model that is made of it, with the image sizes of the checkpoint's own processor and the system message of
    the training.
    """

    folder: Path
    spec: ModelSpec


def find_base(recipe: FinetuneRecipe, base: str) -> BaseCheckpoint:
    """Finds a base by a model's name, its folder, or NAME=FOLDER. Raises UnknownName, BadBundle."""
    target = find_spec(recipe.model)
    folder = Path(base).expanduser()
    if base.startswith(RUNS_FOLDER) and not folder.is_dir():
        raise BadBundle(f"{base} does not exist: train {folder.name} first, or say where it is (--model FOLDER).")
    is_named = folder.is_dir() or (is_hub_id(base) and find_snapshot(base) is not None)
    source = find_model(f"{recipe.model}={base}" if is_named else base)
    if isinstance(source, ModelBundle):
        raise BadBundle(f"{base} is an exported model, which cannot be trained: give the checkpoint that it is from.")
    if isinstance(source, ReleasedCheckpoint):
        source.require_plain_weights("be trained further")
    if source.spec.architecture != target.architecture:
        raise BadBundle(
            f"{base} is a {source.spec.architecture}, but {recipe.model} is a {target.architecture}: give another base."
        )
    source = find_model(f"{recipe.model}={source.folder}")
    assert isinstance(source, ReleasedCheckpoint)
    spec = source.spec if recipe.system is None else replace(source.spec, system=recipe.system)
    return BaseCheckpoint(source.folder, replace(spec, head=recipe.train.head))


def load_finetune_model(base: BaseCheckpoint, recipe: FinetuneRecipe) -> FinetuneModel:
    """Loads the model in float32 (steps may use bf16) and freezes what the recipe does not train.

    Raises BadBundle if weights are missing.
    """
    vlm = load_vlm(base, recipe.train.attention)
    head = None
    if recipe.train.head:
        torch.manual_seed(recipe.seed)
        head = load_depth_head(base, recipe.train.head, vlm.config.text_config.hidden_size)
    model = FinetuneModel(vlm, head, recipe.train.depth_weight)
    freeze_other_parts(model, recipe.train.trains)
    if recipe.train.gradient_checkpointing:
        # transformers before 5.22 has the older name only.
        enable = getattr(vlm, "activation_checkpointing_enable", None) or vlm.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def load_vlm(base: BaseCheckpoint, attention: str) -> PreTrainedModel:
    """Loads transformers' model. Raises BadBundle for missing tensors, and for others than those of a depth head."""
    with quiet_transformers():
        vlm, report = MODEL_CLASSES[base.spec.architecture].from_pretrained(
            base.folder,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    odd = [name for name in report["unexpected_keys"] if not name.startswith(HEAD_PREFIX) and "inv_freq" not in name]
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"], *odd]))
    if wrong:
        raise BadBundle(
            f"{base.folder}: {len(wrong)} tensors are missing, unknown or of another size, for example {wrong[0]}: "
            "download the checkpoint again."
        )
    return vlm


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hides transformers' table of unknown tensors inside the block: those of a depth head are expected."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_depth_head(base: BaseCheckpoint, kind: str, width: int) -> nn.Module:
    """Returns the checkpoint's depth head, or a new one if it has none.

    A new one has torch's usual initialisation; that of the release is unknown.
    """
    tensors = read_weight_files(base.folder).tensors
    stored = {name: tensor for name, tensor in tensors.items() if name.startswith(HEAD_PREFIX)}
    side = base.spec.pixels_per_token
    if not stored:
        if kind == "dpt":
            return DptHead(DptConfig(width, pixels_per_token=side))
        return MlpHead(MlpConfig(width, pixels_per_token=side))
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    head = build_released_head(kind, shapes, read_config(base.folder), width, side)
    assert head is not None
    names = {name: released_parameter_name(head, name) for name in head.state_dict()}
    expected = {names[name]: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    check_tensors_fit(base.folder, stored, expected)
    load_tensors(head, stored, names, torch.float32, torch.device("cpu"))
    return head


def freeze_other_parts(model: FinetuneModel, trains: Iterable[str]) -> None:
    """Lets only the named parts learn: "vision" (the tower and its projection), "language" (with its output layer),
    "head"."""
    trained = set(trains)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of_parameter(name) in trained)


def part_of_parameter(name: str) -> str:
    """Returns the part of a FinetuneModel that a parameter belongs to."""
    if name.startswith(HEAD_PREFIX):
        return "head"
    return "vision" if name.startswith(VISION_PREFIXES) else "language"


def make_chat_encoder(base: BaseCheckpoint) -> ChatEncoder:
    spec = base.spec
    tokenizer = open_tokenizer(base.folder)
    image_id = read_token_id(base.folder, IMAGE_TOKENS[spec.architecture])
    row_ids = None
    if spec.architecture == "llava":
        row_ids = read_token_id(base.folder, "[IMG_BREAK]"), read_token_id(base.folder, "[IMG_END]")
    return ChatEncoder(tokenizer, chat_named(spec.chat, spec.system), spec.chat, image_id, row_ids)


def make_image_token_rule(base: BaseCheckpoint) -> ImageTokenRule:
    return ImageTokenRule(base.spec.pixels_per_token, base.spec.architecture == "llava")


def make_collator(base: BaseCheckpoint, encoder: ChatEncoder) -> Collator:
    llava = base.spec.architecture == "llava"
    side = base.spec.pixels_per_token
    packer = ImagePacker(read_pixel_rule(base.folder), side if llava else side // 2, 0 if llava else 2)
    return Collator(packer, read_token_id(base.folder, encoder.chat.end), encoder.image_id, llava)

"""transformers' own model, with DepthVLM's depth head beside it and the losses of the recipes on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from depthlm_ros.finetune.losses import next_token, silog


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
        depth = silog(maps, depth_m) if depth_m is not None and maps else None
        text = next_token(states, self.vlm.lm_head, next_id) if (next_id >= 0).any() else None
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

"""Starts a training from the weights of an earlier model, which may have fewer layers and another tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer

from depthlm_ros.nets.qwen3vl import Qwen3VLDepth

EMBEDDING = "vlm.model.language_model.embed_tokens.weight"
OUTPUT = "vlm.lm_head.weight"
# Stacks of equal layers, and the weights through which each layer adds to its input.
STACKS = {
    "vlm.model.visual.blocks": ("attn.proj.weight", "attn.proj.bias", "mlp.linear_fc2.weight", "mlp.linear_fc2.bias"),
    "vlm.model.language_model.layers": ("self_attn.o_proj.weight", "mlp.down_proj.weight"),
}
# The last layers stay last: the attention supervision works on them.
LAST_LAYERS = 2


def copy_earlier_weights(
    model: Qwen3VLDepth, tokenizer: Tokenizer, earlier: Qwen3VLDepth, earlier_tokenizer: Tokenizer
) -> int:
    """Copies the weights of an earlier model wherever name and shape agree, and the embeddings of common tokens.

    If the model has more layers, the new ones go before the last two of their stack and add nothing at first, so that
    the model begins as the earlier one. Other weights stay as they are. Returns the number of copied tensors.
    """
    state, source = model.state_dict(), earlier.state_dict()
    copied = 0
    with torch.no_grad():
        for stack, outputs in STACKS.items():
            source = _insert_layers(source, stack, _count_layers(state, stack) - _count_layers(source, stack), outputs)
        for name, tensor in state.items():
            if name in (EMBEDDING, OUTPUT) or name not in source or source[name].shape != tensor.shape:
                continue
            tensor.copy_(source[name])
            copied += 1
        places = earlier_tokenizer.get_vocab()
        for token, place in tokenizer.get_vocab().items():
            if token in places:
                state[EMBEDDING][place] = source[EMBEDDING][places[token]]
    return copied


def _count_layers(names: Iterable[str], stack: str) -> int:
    return len({name.removeprefix(stack).split(".")[1] for name in names if name.startswith(stack)})


def _insert_layers(
    source: dict[str, torch.Tensor], stack: str, more: int, outputs: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Returns the tensors with room for `more` layers in a stack. The outputs of the new layers are zero."""
    if more <= 0:
        return source
    first_of_last = _count_layers(source, stack) - LAST_LAYERS
    moved = {}
    for name, tensor in source.items():
        if name.startswith(stack):
            _, place, part = name.removeprefix(stack).split(".", 2)
            if int(place) >= first_of_last:
                if int(place) == first_of_last and part in outputs:
                    new = range(first_of_last, first_of_last + more)
                    moved.update({f"{stack}.{index}.{part}": torch.zeros_like(tensor) for index in new})
                name = f"{stack}.{int(place) + more}.{part}"
        moved[name] = tensor
    return moved

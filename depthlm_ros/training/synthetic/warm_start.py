"""Starts a training from a model that is there already."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer

from depthlm_ros.nets.qwen3vl import Qwen3VLDepth

EMBEDDING = "vlm.model.language_model.embed_tokens.weight"
OUTPUT = "vlm.lm_head.weight"
# Stacks of like layers, and what each layer adds to its input comes through.
STACKS = {
    "vlm.model.visual.blocks": ("attn.proj.weight", "attn.proj.bias", "mlp.linear_fc2.weight", "mlp.linear_fc2.bias"),
    "vlm.model.language_model.layers": ("self_attn.o_proj.weight", "mlp.down_proj.weight"),
}
# The last layers stay last: the gaze loss has its place in them.
LAST = 2


def start_from(model: Qwen3VLDepth, tokenizer: Tokenizer, earlier: Qwen3VLDepth, earlier_tokenizer: Tokenizer) -> int:
    """Copies the weights of an earlier model wherever name and shape agree, and the embeddings of the tokens that both
    tokenizers know, whatever their ids are. Layers that the model has more go before the last two of their stack and
    add nothing at first, so that it begins as the earlier one. The rest stays as it was. Returns how many tensors were
    copied."""
    state, given = model.state_dict(), earlier.state_dict()
    copied = 0
    with torch.no_grad():
        for stack, outputs in STACKS.items():
            given = _spread(given, stack, _layers(state, stack) - _layers(given, stack), outputs)
        for name, tensor in state.items():
            if name in (EMBEDDING, OUTPUT) or name not in given or given[name].shape != tensor.shape:
                continue
            tensor.copy_(given[name])
            copied += 1
        places = earlier_tokenizer.get_vocab()
        for token, place in tokenizer.get_vocab().items():
            if token in places:
                state[EMBEDDING][place] = given[EMBEDDING][places[token]]
    return copied


def _layers(names: Iterable[str], stack: str) -> int:
    return len({name.removeprefix(stack).split(".")[1] for name in names if name.startswith(stack)})


def _spread(given: dict[str, torch.Tensor], stack: str, more: int, outputs: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The tensors with room for `more` layers in a stack, whose outputs are zero."""
    if more <= 0:
        return given
    first_of_last = _layers(given, stack) - LAST
    spread = {}
    for name, tensor in given.items():
        if name.startswith(stack):
            _, place, part = name.removeprefix(stack).split(".", 2)
            if int(place) >= first_of_last:
                if int(place) == first_of_last and part in outputs:
                    new = range(first_of_last, first_of_last + more)
                    spread.update({f"{stack}.{index}.{part}": torch.zeros_like(tensor) for index in new})
                name = f"{stack}.{int(place) + more}.{part}"
        spread[name] = tensor
    return spread

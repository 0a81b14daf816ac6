"""Starts a training from a model that is there already."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from depthlm_ros.nets.qwen3vl import Qwen3VLDepth

EMBEDDING = "vlm.model.language_model.embed_tokens.weight"
OUTPUT = "vlm.lm_head.weight"


def start_from(model: Qwen3VLDepth, tokenizer: Tokenizer, earlier: Qwen3VLDepth, earlier_tokenizer: Tokenizer) -> int:
    """Copies the weights of an earlier model wherever name and shape agree, and the embeddings of the tokens that both
    tokenizers know, whatever their ids are. The rest stays as it was. Returns how many tensors were copied."""
    state, given = model.state_dict(), earlier.state_dict()
    copied = 0
    with torch.no_grad():
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

# SPDX-License-Identifier: Apache-2.0
"""Writes small random checkpoints of every released architecture in the form of a release."""

import json

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from depthlm_ros.families import depthlm, vlm3
from support.random_backbones import pixtral_config, qwen3_config, qwen25_config, roughen
from support.released_heads import random_tensors, released_dpt

QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
PIXTRAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
LIMITS = {"size": {"shortest_edge": 4096, "longest_edge": 1 << 20}, "merge_size": 2}
QWEN_IMAGES = LIMITS | {"image_processor_type": "Qwen2VLImageProcessor"}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255}
PIXTRAL_IMAGES = {
    "image_processor_type": "PixtralImageProcessor",
    "do_rescale": False,
    "do_resize": False,
    "patch_size": {"height": 16, "width": 16},
}
KINDS = {
    "qwen3_vl": (Qwen3VLForConditionalGeneration, qwen3_config, QWEN, HALF | QWEN_IMAGES | {"patch_size": 16}),
    "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, qwen25_config, QWEN, HALF | QWEN_IMAGES | {"patch_size": 14}),
    "llava": (
        LlavaForConditionalGeneration,
        pixtral_config,
        PIXTRAL,
        HALF | PIXTRAL_IMAGES,
    ),
}
PROMPTS = [depthlm.POINT_QUESTION, *vlm3.QUESTIONS.values()]


def make_tokenizer(control):
    """Trains merges on the words of the prompts. As in the released tokenizers, every digit is a token of its own."""
    made = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r"\d| ?[A-Za-z]+|[^\sA-Za-z\d]+|\s+"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(PROMPTS, trainer)
    made.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    return made


def publish(folder, architecture, with_head):
    """Writes a random checkpoint in the form of a release."""
    kind, config, control, processor = KINDS[architecture]
    tokenizer = make_tokenizer(control)
    image = tokenizer.token_to_id("<|image_pad|>" if architecture != "llava" else "[IMG]")
    changes = {"image_token_index": image} if architecture == "llava" else {"image_token_id": image}
    given = config(**changes)
    given.text_config.vocab_size = tokenizer.get_vocab_size()
    torch.manual_seed(5)
    roughen(kind(given), 0.05).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if with_head:
        path = folder / "model.safetensors"
        save_file(load_file(path) | random_tensors(released_dpt(width=given.text_config.hidden_size)), path)

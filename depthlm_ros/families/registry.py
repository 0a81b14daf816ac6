# SPDX-License-Identifier: Apache-2.0
"""Finds what a model's spec names: a family (`family_named`) and a chat template (`chat_named`).

A chat template is the fixed text around images, question and reply. The strings are those of the templates that come
with the checkpoints (Qwen2.5-VL, Qwen3-VL, Pixtral). The network inserts the tokens that stand for an image itself, and
the ends of rows in Pixtral's images.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthlm_ros.errors import UnknownName
from depthlm_ros.families.base import Family
from depthlm_ros.families.depth_map import DepthMap
from depthlm_ros.families.depthlm import DepthLM
from depthlm_ros.families.qwen_vl import DepthVLM, Qwen3VL, Qwen25VL
from depthlm_ros.families.tiny import Tiny
from depthlm_ros.families.vlm3 import Vlm3, Vlm3Corr, Vlm3Depth, Vlm3Object, Vlm3Pose

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        Tiny,
        DepthLM,
        DepthVLM,
        Vlm3Depth,
        Vlm3Object,
        Vlm3Corr,
        Vlm3Pose,
        Vlm3,
        Qwen3VL,
        Qwen25VL,
        DepthMap,
    )
}


def family_named(name: str, most_coordinate: int = 2000) -> Family:
    """Returns a family by name. Raises UnknownName with the names that exist.

    most_coordinate: largest normalised coordinate in a depth question (ModelSpec.most_coordinate).
    """
    if name not in FAMILIES:
        raise UnknownName(f"family {name!r} is not one of {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[name](most_coordinate)


@dataclass(frozen=True)
class ChatTemplate:
    """The parts of a chat template. All are fixed, so that one pass over the image serves every question.

    before: text before the first image. between: between two images. after: after the last image. header: between the
    question and the reply. end: after the reply. image_tokens: the tokens that stand for an image in the prompt; the
    network inserts them.
    """

    before: str
    between: str
    after: str
    header: str
    end: str
    image_tokens: tuple[str, ...] = ()

    @property
    def around_images(self) -> tuple[str, str, str]:
        """The texts before, between and after the images."""
        return self.before, self.between, self.after

    @property
    def tokens(self) -> tuple[str, ...]:
        """The special tokens that the tokenizer of a checkpoint must have."""
        return self.end, *self.image_tokens


def qwen(system: str) -> ChatTemplate:
    """Returns the template of Qwen2.5-VL and Qwen3-VL; an empty system text means no system message."""
    opening = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return ChatTemplate(
        before=f"{opening}<|im_start|>user\n<|vision_start|>",
        between="<|vision_end|><|vision_start|>",
        after="<|vision_end|>",
        header="<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        image_tokens=("<|image_pad|>",),
    )


def pixtral(system: str) -> ChatTemplate:
    """Returns the template of Pixtral in transformers' Llava class; the tokenizer does not add <s> itself.

    The system text stands before the images of the last question, with an empty line behind it, as in the template that
    transformers' conversion of Mistral's models writes (convert_mistral3_weights_to_hf.py).
    """
    return ChatTemplate(
        before=f"<s>[INST]{system}\n\n" if system else "<s>[INST]",
        between="",
        after="",
        header="[/INST]",
        end="</s>",
        image_tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    )


def none(system: str) -> ChatTemplate:
    """Returns the template of models without words."""
    return ChatTemplate(before="", between="", after="", header="", end="<end>")


TEMPLATES = {"qwen": qwen, "pixtral": pixtral, "none": none}


def chat_named(name: str, system: str = "") -> ChatTemplate:
    """Returns a template by name, with a system message. Raises UnknownName with the names that exist."""
    if name not in TEMPLATES:
        raise UnknownName(f"chat template {name!r} is not one of {', '.join(sorted(TEMPLATES))}.")
    return TEMPLATES[name](system)

"""The fixed text around images, question and reply, which an architecture's chat template prescribes.

The strings are those of the templates that come with the checkpoints (Qwen2.5-VL, Qwen3-VL, Pixtral). What stands for
an image itself (its tokens, Pixtral's row breaks) is the network's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthlm_ros.errors import UnknownName


@dataclass(frozen=True)
class Chat:
    """before the first image, between two, after the last; header between question and reply; end of a reply.

    All are fixed, so that one look serves every question.
    """

    before: str
    between: str
    after: str
    header: str
    end: str

    @property
    def around_images(self) -> tuple[str, str, str]:
        """before, between, after."""
        return self.before, self.between, self.after


def qwen(system: str) -> Chat:
    """Qwen2.5-VL and Qwen3-VL; an empty system text means no system message."""
    opening = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return Chat(
        before=f"{opening}<|im_start|>user\n<|vision_start|>",
        between="<|vision_end|><|vision_start|>",
        after="<|vision_end|>",
        header="<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
    )


def pixtral(system: str) -> Chat:
    """Pixtral in transformers' Llava class; the tokenizer writes no <s> of its own."""
    opening = f"[SYSTEM_PROMPT]{system}[/SYSTEM_PROMPT]" if system else ""
    return Chat(before=f"<s>{opening}[INST]", between="", after="", header="[/INST]", end="</s>")


TEMPLATES = {"qwen": qwen, "pixtral": pixtral}


def chat_named(name: str, system: str = "") -> Chat:
    """Raises UnknownName listing the templates that exist."""
    if name not in TEMPLATES:
        raise UnknownName(f"chat template {name!r} is not one of {', '.join(sorted(TEMPLATES))}.")
    return TEMPLATES[name](system)

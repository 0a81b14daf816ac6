"""Text on its way to a model and back."""

from __future__ import annotations

import re

# What the checkpoints' tokenizers take for control tokens: <|im_start|> and its like (Qwen), [INST], [/INST] and
# [SYSTEM_PROMPT], <s>, </s>, <unk> and <pad> (Pixtral).
_CONTROL = re.compile(r"<(?=\|)|\[(?=/?[A-Z]+(?:_[A-Z]+)*\])|<(?=/?(?:s|unk|pad)>|SPECIAL_)")


def without_control(question: str) -> str:
    """The question with control tokens taken apart by a space, so that a user's text never is more than text."""
    return _CONTROL.sub(lambda opening: f"{opening.group()} ", question)


def without_thinking(reply: str) -> str:
    """The reply behind its last <think> block; before it, if the block never ends."""
    _, ended, after = reply.rpartition("</think>")
    return (after if ended else reply.partition("<think>")[0]).strip()

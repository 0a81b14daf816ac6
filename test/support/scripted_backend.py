# SPDX-License-Identifier: Apache-2.0
"""A backend with scripted replies, for models whose weights are not here. Everything around it is real."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.backends.base import Look, StepInput, StepOutput
from depthlm_ros.families.registry import chat_named, family_named
from depthlm_ros.model import Model
from depthlm_ros.model_files.spec_yaml import find_spec
from depthlm_ros.model_files.tokenizer_files import read_tokenizer
from support.paths import TINY

TOKENIZER = TINY / "tokenizer.json"


class ScriptedBackend:
    """Replies to each question with reply(text of the question).

    sure: True if no other digit was possible, False if all were equally likely. looked_at: the images of every look,
    each (h, w, 3). steps: how often text was run. step_s: how long a step takes, at least.
    """

    name = "scripted"
    device = "cpu"

    def __init__(self, tokenizer: Tokenizer, end: str, reply: Callable[[str], str], sure: bool = True) -> None:
        self.tokenizer, self.end, self.reply, self.sure = tokenizer, end, reply, sure
        self.looked_at: list[list[np.ndarray]] = []
        self.steps, self.step_s = 0, 0.0

    def look(self, images: Sequence[np.ndarray]) -> Look:
        self.looked_at.append([image[0] for image in images])
        return Look(None, None, prompts=1, length=1, next_position=1)

    def read(self, look: Look) -> Look:
        return look

    def cache(self, look: Look, rows: int, slots: int) -> list[list[int]]:
        return [[] for _ in range(rows)]

    def step(self, cache: list[list[int]], step_input: StepInput) -> StepOutput:
        self.steps += 1
        time.sleep(self.step_s)
        if step_input.first_slot == 0:
            for left, ids, last in zip(cache, step_input.ids, step_input.last, strict=True):
                question = self.tokenizer.decode(ids[: last + 1].tolist(), skip_special_tokens=False)
                left += self.tokenizer.encode(self.reply(question) + self.end, add_special_tokens=False).ids
        end = self.tokenizer.token_to_id(self.end)
        chosen = np.array([left.pop(0) if left else end for left in cache])
        watched = np.where((np.asarray(step_input.watched) == chosen[:, None]) | (not self.sure), 0.0, -30.0)
        return StepOutput(chosen, np.zeros(len(cache), np.float32), watched.astype(np.float32))


def scripted_model(name: str, reply: Callable[[str], str], sure: bool = True) -> Model:
    """Returns the known model of this name, but with a scripted backend and the tokenizer of tiny."""
    spec, tokenizer = find_spec(name), read_tokenizer(TOKENIZER)
    chat = chat_named(spec.chat, spec.system)
    return Model(spec, family_named(spec.family), chat, ScriptedBackend(tokenizer, chat.end, reply, sure), tokenizer)

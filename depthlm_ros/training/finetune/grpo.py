"""DepthLM by reinforcement: trl's group-relative policy optimisation on the samples of supervised training.

Its own code is unreleased; the rewards are those that the paper compares.

What a reply about a depth is worth, in reinforcement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from depthlm_ros.errors import SetupError
from depthlm_ros.families.parsing import answered_metres
from depthlm_ros.training.finetune.collator import Collator, filled
from depthlm_ros.training.finetune.dataset import LeftOut, Lesson
from depthlm_ros.training.finetune.model import Student, collator_of, load_student
from depthlm_ros.training.finetune.packing import encode
from depthlm_ros.training.finetune.recipe import GrpoSettings, Recipe, TextSettings
from depthlm_ros.training.finetune.run import Run
from depthlm_ros.training.finetune.samples import Turn
from depthlm_ros.training.finetune.trainer import OwnCheckpoints, Plan, arguments, in_own_precision

# (reply, truth in metres, largest error in metres that counts) -> reward
Reward = Callable[[str, float, float], float]
# Factor between a depth and the truth that delta1 still takes for right.
DELTA1 = 1.25


def negative_l1(reply: str, truth_m: float, worst_m: float) -> float:
    """Minus the error in metres; a reply that cannot be read is as bad as the worst that can."""
    error_m = abs(answered_metres(reply) - truth_m)
    return -worst_m if math.isnan(error_m) else -min(error_m, worst_m)


def negative_absrel(reply: str, truth_m: float, worst_m: float) -> float:
    """Minus the error as a share of the truth, bounded alike."""
    return negative_l1(reply, truth_m, worst_m) / truth_m


def delta1(reply: str, truth_m: float, worst_m: float) -> float:
    """1 for a depth within a factor of 1.25 of the truth, else 0."""
    told_m = answered_metres(reply)
    return float(told_m > 0 and max(told_m / truth_m, truth_m / told_m) < DELTA1)


REWARDS: dict[str, Reward] = {"l1": negative_l1, "absrel": negative_absrel, "delta1": delta1}

ASKED = TextSettings(answers=False)


class Prompter(ProcessorMixin):
    """What trl takes for the checkpoint's processor: the prompts and pixels of this package, so that a policy is asked
    in training as it is at run time. Messages hold a picture uint8 (h, w, 3) and a question."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, lesson: Lesson, collator: Collator) -> None:
        super().__init__(tokenizer)
        self.lesson, self.collator = lesson, collator

    def apply_chat_template(self, conversation: Any, tokenize: bool = False, **ignored: Any) -> Any:
        """The question of one conversation; tokenize: the inputs of several, rows as lists."""
        if not tokenize:
            return _parts(conversation, "text")[0]
        pictures = [_parts(one, "image") for one in conversation]
        rows, pixels = self._inputs(pictures, [_parts(one, "text")[0] for one in conversation])
        return {"input_ids": rows, **pixels, **self._kinds(rows)}

    def __call__(self, images: Any = None, text: Any = None, **ignored: Any) -> BatchFeature:
        """Inputs of several questions, filled up at the left."""
        rows, pixels = self._inputs(images, text)
        sides = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows], **self._kinds(rows)}
        return BatchFeature({name: filled(side, 0, at_left=True) for name, side in sides.items()} | pixels)

    def _inputs(self, pictures: Sequence[Any], questions: Sequence[str]) -> tuple[list[list[int]], dict[str, Any]]:
        rows = []
        for seen, question in zip(pictures, questions, strict=True):
            spans = [self.lesson.tokens.span(picture) for picture in seen]
            rows.append(encode(self.lesson.speech, spans, [Turn(question, "")], ASKED).ids.tolist())
        return rows, self.collator.packer([picture for seen in pictures for picture in seen])

    def _kinds(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Which tokens are an image's, where positions depend on it."""
        if self.collator.plain:
            return {}
        return {"mm_token_type_ids": [[int(token == self.collator.image_id) for token in row] for row in rows]}


class GrpoTeacher(OwnCheckpoints, GRPOTrainer):
    """trl's trainer with checkpoints of ours."""


def make_grpo(run: Run, plan: Plan) -> tuple[GrpoTeacher, Student]:
    """trl's trainer, and the student whose model it teaches."""
    recipe, settings = run.recipe, run.recipe.grpo
    if recipe.task != "depthlm":
        raise SetupError(f"method: grpo is for the task depthlm, not {recipe.task}: its replies have one true number.")
    if plan.batch % settings.generations:
        raise SetupError(f"train.batch ({plan.batch}) must be a multiple of grpo.generations ({settings.generations}).")
    lesson, student = run.lesson(plan.samples // settings.generations), load_student(run.base, recipe)
    collator = collator_of(run.base, lesson.speech)
    left_out = LeftOut()
    teacher = GrpoTeacher(
        model=student.vlm,
        reward_funcs=reward_function(settings, left_out),
        args=in_own_precision(GRPOConfig(**config_of(recipe, plan, str(run.checkpoints)))),
        train_dataset=prompts_of(lesson),
        processing_class=Prompter(tokenizer_of(lesson), lesson, collator),
    )
    teacher.left_out = left_out
    return teacher, student


def config_of(recipe: Recipe, plan: Plan, folder: str) -> dict[str, Any]:
    """What GRPOConfig is made of."""
    settings = recipe.grpo
    return arguments(recipe, plan, folder) | {
        "num_generations": settings.generations,
        "max_completion_length": settings.reply_tokens,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "gradient_checkpointing": recipe.train.gradient_checkpointing,
        # Positions were shuffled when they were made.
        "shuffle_dataset": False,
        # Pictures are made in this process: what makes them does not travel to others.
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": False,
    }


def prompts_of(lesson: Lesson) -> Dataset:
    """Position -> prompt, picture and truth, each made when it is asked for."""

    def made(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        shown = [lesson.shown(position) for position in batch["position"]]
        return {
            "prompt": [[{"role": "user", "content": sample.turns[0].question}] for sample, _ in shown],
            "images": [list(sample.pictures) for sample, _ in shown],
            "truth_m": [sample.truth_m[0] for sample, _ in shown],
            "left_out": [encoded.left_out for _, encoded in shown],
        }

    return Dataset.from_dict({"position": list(range(len(lesson)))}).with_transform(made)


def reward_function(settings: GrpoSettings, left_out: LeftOut) -> Any:
    """For trl: the rewards of all replies. Every record has settings.generations of them, after each other."""
    reward = REWARDS[settings.reward]

    def rewards(completions: Any, truth_m: Sequence[float], **columns: Any) -> list[float]:
        for problems in columns["left_out"][:: settings.generations]:
            left_out.add(problems)
        replies = [completion[0]["content"] for completion in completions]
        return [reward(reply, true_m, settings.worst_m) for reply, true_m in zip(replies, truth_m, strict=True)]

    rewards.__name__ = settings.reward
    return rewards


def tokenizer_of(lesson: Lesson) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer as transformers wraps one; a reply ends with the chat's end."""
    speech = lesson.speech
    spare = next(
        (token for token in ("<|endoftext|>", "<pad>") if speech.tokenizer.token_to_id(token) is not None), None
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=speech.tokenizer, eos_token=speech.chat.end, pad_token=spare or speech.chat.end
    )


def _parts(conversation: Any, kind: str) -> list[Any]:
    """The images or the texts of the messages of a conversation."""
    parts = [part for message in conversation for part in message["content"]]
    return [part[kind] for part in parts if part["type"] == kind]

# SPDX-License-Identifier: Apache-2.0
"""DepthLM by reinforcement: trl's group-relative policy optimisation (GRPO) on the samples of supervised training.

DepthLM's own code of it is unreleased; the rewards are those that the paper compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from depthlm_ros.data.records import RecordProblem
from depthlm_ros.errors import SetupError
from depthlm_ros.families.parsing import parse_answer_m
from depthlm_ros.training.finetune.collator import Collator
from depthlm_ros.training.finetune.dataset import FinetuneDataset, SkippedRecords
from depthlm_ros.training.finetune.model import FinetuneModel, load_finetune_model, make_collator
from depthlm_ros.training.finetune.recipe import FinetuneRecipe, GrpoSettings, TextSettings
from depthlm_ros.training.finetune.run import FinetuneRun
from depthlm_ros.training.finetune.trainer import (
    CheckpointingTrainer,
    TrainingPlan,
    keep_weights_in_float32,
    trainer_arguments,
)
from depthlm_ros.training.packing import ChatTurn, stack_rows

# (reply, truth in metres, largest error in metres that counts) -> reward
Reward = Callable[[str, float, float], float]
# A message of trl: its content is a list of parts such as {"type": "text", "text": ...}.
Message = Mapping[str, Any]
Conversation = Sequence[Message]
# delta1 counts a depth within this factor of the truth as right.
DELTA1 = 1.25
# Prompts have no replies.
PROMPT_TEXT = TextSettings(answers=False)


def negative_l1(reply: str, truth_m: float, worst_m: float) -> float:
    """Returns minus the error in metres. An unreadable reply counts as the worst error."""
    error_m = abs(parse_answer_m(reply) - truth_m)
    return -worst_m if math.isnan(error_m) else -min(error_m, worst_m)


def negative_absrel(reply: str, truth_m: float, worst_m: float) -> float:
    """Returns minus the error as a share of the truth, with the same bound."""
    return negative_l1(reply, truth_m, worst_m) / truth_m


def delta1(reply: str, truth_m: float, worst_m: float) -> float:
    """Returns 1 for a depth within a factor of 1.25 of the truth, else 0."""
    answer_m = parse_answer_m(reply)
    return float(answer_m > 0 and max(answer_m / truth_m, truth_m / answer_m) < DELTA1)


REWARDS: dict[str, Reward] = {"l1": negative_l1, "absrel": negative_absrel, "delta1": delta1}


class GrpoProcessor(ProcessorMixin):
    """What trl takes for the checkpoint's processor.

    It makes the prompts and pixels of this package, so that the model is asked in training as at run time. Messages
    hold an image uint8 (h, w, 3) and a question.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, dataset: FinetuneDataset, collator: Collator) -> None:
        super().__init__(tokenizer)
        self.dataset, self.collator = dataset, collator

    def apply_chat_template(self, conversation: Any, tokenize: bool = False, **ignored: object) -> str | dict[str, Any]:
        """Returns the question of one conversation; if tokenize, the inputs of several, with rows as lists."""
        if not tokenize:
            return _parts(conversation, "text")[0]
        images = [_parts(one, "image") for one in conversation]
        rows, pixels = self._encode(images, [_parts(one, "text")[0] for one in conversation])
        return {"input_ids": rows, **pixels, **self._token_types(rows)}

    def __call__(
        self,
        images: Sequence[Sequence[np.ndarray]] = (),
        text: Sequence[str] = (),
        **ignored: object,
    ) -> BatchFeature:
        """Returns the inputs of several questions, padded at the left."""
        rows, pixels = self._encode(images, text)
        columns = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows], **self._token_types(rows)}
        return BatchFeature({name: stack_rows(column, 0, at_left=True) for name, column in columns.items()} | pixels)

    def _encode(
        self, images: Sequence[Sequence[np.ndarray]], questions: Sequence[str]
    ) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        rows = []
        for of_question, question in zip(images, questions, strict=True):
            spans = [self.dataset.image_tokens.span(image) for image in of_question]
            rows.append(self.dataset.encoder.encode(spans, [ChatTurn(question, "")], PROMPT_TEXT).ids.tolist())
        return rows, self.collator.packer([image for of_question in images for image in of_question])

    def _token_types(self, rows: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """Returns which tokens are an image's, where positions depend on it."""
        if self.collator.one_position:
            return {}
        return {"mm_token_type_ids": [[int(token == self.collator.image_id) for token in row] for row in rows]}


class GrpoPolicyTrainer(CheckpointingTrainer, GRPOTrainer):
    """trl's trainer with the checkpoints of this package."""


def make_grpo_trainer(run: FinetuneRun, plan: TrainingPlan) -> tuple[GrpoPolicyTrainer, FinetuneModel]:
    """Returns trl's trainer for the run, and the model that it trains. Raises SetupError for unfit settings."""
    recipe, settings = run.recipe, run.recipe.grpo
    if recipe.task != "depthlm":
        raise SetupError(
            f"method: grpo is for the task depthlm, not for {recipe.task}: only its replies have one true number."
        )
    if plan.batch % settings.generations:
        raise SetupError(f"train.batch ({plan.batch}) must be a multiple of grpo.generations ({settings.generations}).")
    dataset, model = run.dataset(plan.samples // settings.generations), load_finetune_model(run.base, recipe)
    skipped = SkippedRecords()
    trainer = GrpoPolicyTrainer(
        model=model.vlm,
        reward_funcs=make_rewards(settings, skipped),
        args=keep_weights_in_float32(GRPOConfig(**grpo_arguments(recipe, plan, str(run.checkpoints)))),
        train_dataset=make_prompts(dataset),
        processing_class=GrpoProcessor(wrap_tokenizer(dataset), dataset, make_collator(run.base, dataset.encoder)),
    )
    trainer.skipped = skipped
    return trainer, model


def grpo_arguments(recipe: FinetuneRecipe, plan: TrainingPlan, folder: str) -> dict[str, Any]:
    """Returns the arguments of GRPOConfig."""
    settings = recipe.grpo
    return trainer_arguments(recipe, plan, folder) | {
        "num_generations": settings.generations,
        "max_completion_length": settings.reply_tokens,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "gradient_checkpointing": recipe.train.gradient_checkpointing,
        # The order of samples is already shuffled.
        "shuffle_dataset": False,
        # Samples are made in this process: what makes them cannot be sent to others.
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": False,
    }


def make_prompts(dataset: FinetuneDataset) -> Dataset:
    """Returns a data set of prompts with images and truth, each made when it is asked for."""

    def transform(batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        samples = [dataset.sample_at(position) for position in batch["position"]]
        return {
            "prompt": [[{"role": "user", "content": sample.turns[0].question}] for sample, _ in samples],
            "images": [list(sample.images) for sample, _ in samples],
            "truth_m": [sample.truth_m[0] for sample, _ in samples],
            "left_out": [encoded.skipped for _, encoded in samples],
        }

    return Dataset.from_dict({"position": list(range(len(dataset)))}).with_transform(transform)


def make_rewards(settings: GrpoSettings, skipped: SkippedRecords) -> Callable[..., list[float]]:
    """Returns trl's function of rewards, which counts the skipped records too.

    Every record has settings.generations replies, one after the other.
    """
    reward = REWARDS[settings.reward]

    def rewards(
        completions: Sequence[Conversation],
        truth_m: Sequence[float],
        left_out: Sequence[Sequence[RecordProblem]],
        **columns: object,
    ) -> list[float]:
        for problems in left_out[:: settings.generations]:
            skipped.add(problems)
        replies = [completion[0]["content"] for completion in completions]
        return [reward(reply, true_m, settings.worst_m) for reply, true_m in zip(replies, truth_m, strict=True)]

    rewards.__name__ = settings.reward
    return rewards


def wrap_tokenizer(dataset: FinetuneDataset) -> PreTrainedTokenizerFast:
    """Returns the checkpoint's tokenizer as transformers wraps one. A reply ends with the chat's end."""
    encoder = dataset.encoder
    known = (token for token in ("<|endoftext|>", "<pad>") if encoder.tokenizer.token_to_id(token) is not None)
    end = encoder.chat.end
    return PreTrainedTokenizerFast(
        tokenizer_object=encoder.tokenizer, eos_token=end, pad_token=next(known, None) or end
    )


def _parts(conversation: Conversation, kind: str) -> list[Any]:
    """Returns the images or the texts of the messages of a conversation."""
    parts = [part for message in conversation for part in message["content"]]
    return [part[kind] for part in parts if part["type"] == kind]

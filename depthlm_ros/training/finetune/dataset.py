# SPDX-License-Identifier: Apache-2.0
"""All samples of a run by their position (`FinetuneDataset`), and what had to be skipped (`SkippedRecords`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypedDict, TypeVar

import numpy as np
from torch.utils.data import Dataset

from depthlm_ros.data.records import BadRecord, RecordProblem
from depthlm_ros.errors import BadInput
from depthlm_ros.nets.positions import ImageSpan
from depthlm_ros.training.finetune.chat_encoder import ChatEncoder
from depthlm_ros.training.finetune.collator import EncodedSample
from depthlm_ros.training.finetune.recipe import TextSettings
from depthlm_ros.training.finetune.record_files import RecordFile, SampleOrder
from depthlm_ros.training.finetune.samples import SampleContext, SampleMaker, TrainingSample

R = TypeVar("R")
# More unusable records one after the other than this are no accident.
MOST_ATTEMPTS = 100


@dataclass(frozen=True)
class ImageTokenRule:
    """What an image costs in tokens.

    side_px: side of the square that one token stands for. row_ends: whether each row has one more token at its end
    (Pixtral).
    """

    side_px: int
    row_ends: bool

    def span(self, image: np.ndarray) -> ImageSpan:
        """Returns what an image uint8 (h, w, 3) takes in a prompt."""
        rows, columns = (extent // self.side_px for extent in image.shape[:2])
        if self.row_ends:
            return ImageSpan((rows, columns), rows * (columns + 1), rows * (columns + 1))
        return ImageSpan((rows, columns), rows * columns, max(rows, columns))


class FinetuneDataset(Dataset, Generic[R]):
    """The samples at positions 0 to length - 1. Each depends on (seed, position) only, in any process."""

    def __init__(
        self,
        files: Sequence[RecordFile[R]],
        order: SampleOrder,
        make_sample: SampleMaker[R],
        context: SampleContext,
        encoder: ChatEncoder,
        image_tokens: ImageTokenRule,
        text: TextSettings,
        length: int,
    ) -> None:
        self.files, self.order, self.make_sample, self.context = tuple(files), order, make_sample, context
        self.encoder, self.image_tokens, self.text, self.length = encoder, image_tokens, text, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> EncodedSample:
        """Returns a sample. An unusable record is skipped for the next one, and is listed in the result."""
        return self.sample_at(position)[1]

    def sample_at(self, position: int) -> tuple[TrainingSample, EncodedSample]:
        """Returns a sample before and after its encoding. Raises BadInput if too many records are unusable."""
        skipped: list[RecordProblem] = []
        while len(skipped) < MOST_ATTEMPTS:
            data_set, index = self.order.record_at(position, len(skipped))
            file = self.files[data_set]
            try:
                record, problems = file[index]
                rng = self.order.rng(position, len(skipped))
                sample = self.make_sample(self.context, record, file.path, rng)
                encoded = self.encode(sample)
            except BadRecord as exc:
                skipped.append(RecordProblem(file.where(index), exc.reason, str(exc)))
                continue
            return sample, replace(encoded, skipped=(*skipped, *problems))
        reasons = ", ".join(sorted({problem.reason for problem in skipped}))
        raise BadInput(
            f"{MOST_ATTEMPTS} records one after the other are unusable ({reasons}); the last one: {skipped[-1]} "
            "Check the files with `depthlm data show`."
        )

    def encode(self, sample: TrainingSample) -> EncodedSample:
        """Returns a sample as tokens. Raises BadRecord if its row is too long."""
        spans = [self.image_tokens.span(image) for image in sample.images]
        row = self.encoder.encode(spans, sample.turns, self.text)
        if len(row.ids) > self.text.sequence_tokens:
            raise BadRecord(
                "row too long",
                f"{len(row.ids)} tokens, {sum(span.tokens for span in spans)} of them of images, are more than "
                f"text.sequence_tokens ({self.text.sequence_tokens}).",
            )
        return EncodedSample(row, sample.images, sample.depth_m)


class SkippedCounts(TypedDict):
    """SkippedRecords as JSON."""

    counts: Mapping[str, int]
    first: Mapping[str, str]


@dataclass
class SkippedRecords:
    """Records and points that could not be used in training.

    counts: how often, by reason. first: by reason, the first problem.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, problems: Iterable[RecordProblem]) -> None:
        """Counts problems."""
        for problem in problems:
            self._count(problem.reason, problem.count, str(problem))

    def merge(self, other: SkippedRecords) -> None:
        """Adds the counts of another process."""
        for reason, count in other.counts.items():
            self._count(reason, count, other.first[reason])

    def to_json(self) -> SkippedCounts:
        """Returns what `restore` takes."""
        return {"counts": self.counts, "first": self.first}

    def restore(self, saved: SkippedCounts) -> None:
        """Takes over saved counts."""
        self.counts, self.first = dict(saved["counts"]), dict(saved["first"])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> Iterator[str]:
        """Yields a line for each reason, the most frequent one first."""
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            yield f"skipped {count} times: {reason}; the first: {self.first[reason]}"

    def _count(self, reason: str, count: int, problem: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first.setdefault(reason, problem)

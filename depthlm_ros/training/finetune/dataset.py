"""All that is shown in a run, by position: the data set of torch's loader.

What could not be shown in training, counted: records that were passed over, and points left out of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from depthlm_ros.data.records import BadRecord, Problem
from depthlm_ros.errors import BadInput
from depthlm_ros.nets.positions import ImageSpan
from depthlm_ros.training.finetune.collator import Encoded
from depthlm_ros.training.finetune.packing import Speech, encode
from depthlm_ros.training.finetune.recipe import TextSettings
from depthlm_ros.training.finetune.record_files import Order, Source
from depthlm_ros.training.finetune.samples import MakeSample, Sample, Showing

# So many unusable records in a row are no accident.
MOST_ATTEMPTS = 100


@dataclass(frozen=True)
class Tokens:
    """What an image costs in tokens. side_px: of the square that one token stands for; rows_end: with a token at the
    end of each row (Pixtral)."""

    side_px: int
    rows_end: bool

    def span(self, picture: np.ndarray) -> ImageSpan:
        rows, columns = (extent // self.side_px for extent in picture.shape[:2])
        if self.rows_end:
            return ImageSpan((rows, columns), rows * (columns + 1), rows * (columns + 1))
        return ImageSpan((rows, columns), rows * columns, max(rows, columns))


class Lesson(Dataset):
    """What is shown at positions 0 to length - 1; each is made anew from (seed, position), in any process."""

    def __init__(
        self,
        sources: Sequence[Source],
        order: Order,
        make: MakeSample,
        showing: Showing,
        speech: Speech,
        tokens: Tokens,
        text: TextSettings,
        length: int,
    ) -> None:
        self.sources, self.order, self.make, self.showing = tuple(sources), order, make, showing
        self.speech, self.tokens, self.text, self.length = speech, tokens, text, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Encoded:
        """A record that cannot be shown is passed over for the next one, and named in the result."""
        return self.shown(position)[1]

    def shown(self, position: int) -> tuple[Sample, Encoded]:
        """The same with the sample it was made of. Raises BadInput if one record after the other cannot be shown."""
        passed: list[Problem] = []
        while len(passed) < MOST_ATTEMPTS:
            which, index = self.order.at(position, len(passed))
            source = self.sources[which]
            try:
                record, dropped = source[index]
                sample = self.make(self.showing, record, source.path, self.order.rng(position, len(passed)))
                encoded = self.encoded(sample)
            except BadRecord as exc:
                passed.append(Problem(source.where(index), exc.reason, str(exc)))
                continue
            return sample, replace(encoded, left_out=(*passed, *dropped))
        reasons = ", ".join(sorted({problem.reason for problem in passed}))
        raise BadInput(
            f"{MOST_ATTEMPTS} records after each other cannot be shown ({reasons}); the last one: {passed[-1]} "
            "Check the files with `depthlm data show`."
        )

    def encoded(self, sample: Sample) -> Encoded:
        """Raises BadRecord if the row is too long."""
        spans = [self.tokens.span(picture) for picture in sample.pictures]
        row = encode(self.speech, spans, sample.turns, self.text)
        if len(row.ids) > self.text.sequence_tokens:
            raise BadRecord(
                "row too long",
                f"{len(row.ids)} tokens (of which {sum(span.tokens for span in spans)} of images) are more than "
                f"text.sequence_tokens ({self.text.sequence_tokens}).",
            )
        return Encoded(row, sample.pictures, sample.depth_m)


@dataclass
class LeftOut:
    """counts: by reason, each time that it happened. first: by reason, what was wrong the first time."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, problems: Iterable[Problem]) -> None:
        """Count problems in."""
        for problem in problems:
            self._count(problem.reason, problem.count, str(problem))

    def merge(self, other: LeftOut) -> None:
        """Count those of another process in."""
        for reason, count in other.counts.items():
            self._count(reason, count, other.first[reason])

    def set(self, kept: Mapping[str, Any]) -> None:
        """Take over what was kept as JSON, of `vars`."""
        self.counts, self.first = dict(kept["counts"]), dict(kept["first"])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> Iterator[str]:
        """For people, the commonest first."""
        for reason, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            yield f"left out {count} times: {reason}, the first: {self.first[reason]}"

    def _count(self, reason: str, count: int, told: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first.setdefault(reason, told)

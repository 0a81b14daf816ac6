"""Rows and pictures as the tensors that transformers' own models take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from depthlm_ros.data.records import Problem
from depthlm_ros.nets.pixels import PixelRule
from depthlm_ros.training.finetune.packing import IGNORED, PREFIX, Row


@dataclass(frozen=True, eq=False)
class Encoded:
    """One sample, ready. pictures: uint8 (h, w, 3) each. left_out: what is wrong with the records
    before it, which were not shown, and with points of its own."""

    row: Row
    pictures: tuple[np.ndarray, ...]
    depth_m: np.ndarray | None = None
    left_out: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Packer:
    """How an architecture takes pictures. patch_px, merge: side of a patch in pixels, of a token in patches (Qwen);
    merge 0: whole pictures (Pixtral)."""

    pixels: PixelRule
    patch_px: int
    merge: int

    def __call__(self, pictures: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The vision tower's inputs by the names of transformers' forward."""
        values = [self.pixels.values(torch.from_numpy(np.ascontiguousarray(one))[None])[0] for one in pictures]
        return self._patches(values) if self.merge else self._whole(values)

    def _patches(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Patches of all pictures after each other, those of a token together; a still image is two equal frames."""
        p, m = self.patch_px, self.merge
        patches, grids = [], []
        for value in values:
            rows, columns = value.shape[1] // p, value.shape[2] // p
            blocks = value.expand(2, -1, -1, -1).reshape(1, 2, 3, rows // m, m, p, columns // m, m, p)
            patches.append(blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1))
            grids.append((1, rows, columns))
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}

    def _whole(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Pictures filled up at the right and bottom to the largest of them, with their sizes (rows, columns)."""
        sizes = [value.shape[1:] for value in values]
        high, wide = (max(size[axis] for size in sizes) for axis in (0, 1))
        whole = [functional.pad(v, (0, wide - v.shape[2], 0, high - v.shape[1])) for v in values]
        return {"pixel_values": torch.stack(whole), "image_sizes": torch.tensor([tuple(size) for size in sizes])}


@dataclass(frozen=True)
class Collator:
    """Samples -> one batch. image_id: the token that stands for a patch; plain: positions are one number per token."""

    packer: Packer
    pad_id: int
    image_id: int
    plain: bool

    def __call__(self, samples: Sequence[Encoded]) -> dict[str, Any]:
        """input_ids, next_id: int64 (B, T); position_ids: (3, B, T) or (B, T); attention_mask: bool (B, T), or
        (B, 1, T, T) where questions are packed; the vision tower's inputs; depth_m: a list, where there is depth."""
        rows = [sample.row for sample in samples]
        ids, segment = filled([row.ids for row in rows], self.pad_id), filled([row.segment for row in rows], PREFIX)
        positions = torch.stack([filled([row.positions[axis] for row in rows], 0) for axis in range(3)])
        here = filled([np.ones(len(row.ids), np.int64) for row in rows], 0).bool()
        batch = {
            "input_ids": ids,
            "next_id": filled([row.next_id for row in rows], IGNORED),
            "position_ids": positions[0] if self.plain else positions,
            "attention_mask": visible(segment, here) if (segment != PREFIX).any() else here.long(),
            **self.packer([picture for sample in samples for picture in sample.pictures]),
            "left_out": [problem for sample in samples for problem in sample.left_out],
        }
        if not self.plain:
            batch["mm_token_type_ids"] = (ids == self.image_id).int()
        if samples[0].depth_m is not None:
            batch["depth_m"] = [torch.from_numpy(sample.depth_m) for sample in samples if sample.depth_m is not None]
        return batch


def visible(segment: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """bool (B, 1, T, T), True where a token (row) sees another (column): nothing that comes later, nothing of another
    question. segment: (B, T), PREFIX before the questions; here: (B, T), False where a row is filled up; such tokens
    see each other only, since a softmax over nothing is NaN."""
    count = segment.shape[1]
    causal = torch.ones(count, count, dtype=torch.bool, device=segment.device).tril()
    same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == PREFIX)
    real = here[:, :, None] == here[:, None, :]
    return (same & real & causal)[:, None]


def filled(rows: Sequence[np.ndarray | Sequence[int]], value: int, at_left: bool = False) -> torch.Tensor:
    """int64 (B, T): rows filled up to the longest, at the right or at the left."""
    longest = max(len(row) for row in rows)
    whole = np.full((len(rows), longest), value, np.int64)
    for index, row in enumerate(rows):
        start = longest - len(row) if at_left else 0
        whole[index, start : start + len(row)] = row
    return torch.from_numpy(whole)

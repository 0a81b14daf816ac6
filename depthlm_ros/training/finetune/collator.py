# SPDX-License-Identifier: Apache-2.0
"""Makes batches of rows and images: the tensors that transformers' own models take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional

from depthlm_ros.data.records import RecordProblem
from depthlm_ros.nets.backbone import PixelRule
from depthlm_ros.training.finetune.chat_encoder import EncodedRow
from depthlm_ros.training.packing import IGNORED, PADDING, block_mask, stack_rows

# Tensors, depth maps and problems by the names of FinetuneModel.forward and of the trainer.
FinetuneBatch: TypeAlias = dict[str, torch.Tensor | list[torch.Tensor] | list[RecordProblem]]


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """One sample as tokens and images, uint8 (h, w, 3) each.

    skipped: the problems of the records before it, which were skipped, and of its own points.
    """

    row: EncodedRow
    images: tuple[np.ndarray, ...]
    depth_m: np.ndarray | None = None
    skipped: tuple[RecordProblem, ...] = ()


@dataclass(frozen=True)
class ImagePacker:
    """Makes the inputs of an architecture's vision tower.

    patch_px: side of a patch in pixels. merge: side of a token in patches (Qwen); 0 for whole images (Pixtral).
    """

    pixels: PixelRule
    patch_px: int
    merge: int

    def __call__(self, images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Returns the inputs by the names of transformers' forward."""
        values = [self.pixels.values(torch.from_numpy(np.ascontiguousarray(image))[None])[0] for image in images]
        return self._as_patches(values) if self.merge else self._as_whole_images(values)

    def _as_patches(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the patches of all images, those of a token together. A still image is two equal frames."""
        p, m = self.patch_px, self.merge
        patches, grids = [], []
        for value in values:
            rows, columns = value.shape[1] // p, value.shape[2] // p
            blocks = value.expand(2, -1, -1, -1).reshape(1, 2, 3, rows // m, m, p, columns // m, m, p)
            patches.append(blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1))
            grids.append((1, rows, columns))
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}

    def _as_whole_images(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns images padded at the right and bottom to the largest one, with their sizes (rows, columns)."""
        sizes = [value.shape[1:] for value in values]
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        padded = [functional.pad(v, (0, width - v.shape[2], 0, height - v.shape[1])) for v in values]
        return {"pixel_values": torch.stack(padded), "image_sizes": torch.tensor([tuple(size) for size in sizes])}


@dataclass(frozen=True)
class Collator:
    """Makes one batch of samples.

    image_id: the token that stands for a patch. one_position: the architecture has one position per token, not three.
    """

    packer: ImagePacker
    pad_id: int
    image_id: int
    one_position: bool

    def __call__(self, samples: Sequence[EncodedSample]) -> FinetuneBatch:
        """Returns input_ids, next_id: int64 (B, T); position_ids: (3, B, T) or (B, T); attention_mask: int64 (B, T),
        or bool (B, 1, T, T) where questions are packed; the vision tower's inputs; depth_m: the depth maps, if samples
        have them; left_out: the problems of skipped records."""
        rows = [sample.row for sample in samples]
        ids = stack_rows([row.ids for row in rows], self.pad_id)
        segment = stack_rows([row.segment for row in rows], PADDING)
        positions = torch.stack([stack_rows([row.positions[axis] for row in rows], 0) for axis in range(3)])
        packed = bool((segment >= 0).any())
        batch: FinetuneBatch = {
            "input_ids": ids,
            "next_id": stack_rows([row.next_id for row in rows], IGNORED),
            "position_ids": positions[0] if self.one_position else positions,
            "attention_mask": block_mask(segment) if packed else (segment != PADDING).long(),
            **self.packer([image for sample in samples for image in sample.images]),
            "left_out": [problem for sample in samples for problem in sample.skipped],
        }
        if not self.one_position:
            batch["mm_token_type_ids"] = (ids == self.image_id).int()
        if samples[0].depth_m is not None:
            batch["depth_m"] = [torch.from_numpy(sample.depth_m) for sample in samples if sample.depth_m is not None]
        return batch

# SPDX-License-Identifier: Apache-2.0
"""The test splits of Eigen et al. (NIPS 2014) on NYU Depth V2 and KITTI, by the rules of BTS's evaluation code.

`eigen_judge` scores a depth map: only the pixels of a crop and depths within limits count, and the prediction is
limited to the same range. The scores of a split are means over images (DepthReport.absrel_image_mean and so on).
Source: bts_eval.py of Lee et al., "From big to small" (2019), which the field follows; it names the crops of Eigen
(NYU) and of Garg (KITTI).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from depthlm_ros.core import DepthMap, Frame, PointDepths
from depthlm_ros.data.records import BadRecord, Record
from depthlm_ros.eval.judges import KITTI_EIGEN, NYU_EIGEN, SEED, DepthSource, Judge, map_judge, read_true_map

# (top, bottom, left, right) of the pixels that count: pixels of NYU's 640 x 480, shares of the sides for KITTI.
NYU_CROP_PX, NYU_SIZE_PX = (45, 471, 41, 601), (640, 480)
KITTI_CROP = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
# The part of a KITTI image that a model sees, (width, height): the lower middle, as KITTI's depth benchmark cuts it.
KITTI_SEEN_PX = (1216, 352)
NEAR_M = 1e-3


@dataclass(frozen=True)
class EigenSplit:
    """The rules of one split. far_m: truths beyond it do not count, and predictions are limited to it."""

    far_m: float
    is_kitti: bool

    def crop(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Returns the rows and columns that count, of a map (H, W). Raises BadRecord for another size than NYU's."""
        height, width = shape
        if self.is_kitti:
            top, bottom, left, right = KITTI_CROP
            return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
        if (width, height) != NYU_SIZE_PX:
            raise BadRecord(
                "depth map of another size",
                f"the depth map is {width} x {height}: protocol nyu-eigen needs the original 640 x 480 pixels.",
            )
        top_px, bottom_px, left_px, right_px = NYU_CROP_PX
        return slice(top_px, bottom_px), slice(left_px, right_px)

    def seen(self, frame: Frame) -> tuple[Frame, int, int]:
        """Returns the part of a frame that the model sees, and the column and row at which it begins."""
        width, height = KITTI_SEEN_PX
        camera = frame.intrinsics
        left, top = (camera.width_px - width) // 2, camera.height_px - height
        if not self.is_kitti or left < 0 or top < 0:
            return frame, 0, 0
        part = replace(camera, cx_px=camera.cx_px - left, cy_px=camera.cy_px - top, width_px=width, height_px=height)
        rgb = np.ascontiguousarray(frame.rgb[top:, left : left + width])
        return replace(frame, rgb=rgb, intrinsics=part), left, top


SPLITS = {NYU_EIGEN: EigenSplit(10.0, False), KITTI_EIGEN: EigenSplit(80.0, True)}


def eigen_judge(look: Callable[[Frame], DepthSource], split: EigenSplit, seed: int = SEED) -> Judge:
    """Returns the judge of a split. look: a model's look at a frame."""
    return map_judge(partial(_LimitedDepth, look, split), seed, partial(read_eigen_truth, split))


def read_eigen_truth(split: EigenSplit, record: Record) -> np.ndarray:
    """Returns float32 (h, w): the depths that count, in metres, NaN elsewhere. Raises BadRecord."""
    true_m = read_true_map(record)
    rows, columns = split.crop(true_m.shape)
    counts = np.zeros(true_m.shape, bool)
    counts[rows, columns] = True
    with np.errstate(invalid="ignore"):
        counts &= (true_m > NEAR_M) & (true_m < split.far_m)
    return np.where(counts, true_m, np.float32(np.nan))


class _LimitedDepth:
    """The depth of a frame within the limits of a split: unknown and too near is near, infinite and too far is far."""

    def __init__(self, look: Callable[[Frame], DepthSource], split: EigenSplit, frame: Frame) -> None:
        part, self._left, self._top = split.seen(frame)
        self._frame, self._far_m, self._source = frame, split.far_m, look(part)

    def depth(self) -> DepthMap:
        """Returns the map of the whole frame; what the model does not see is near."""
        camera = self._frame.intrinsics
        seen_m = self._source.depth().depth_m
        depth_m = np.full((camera.height_px, camera.width_px), NEAR_M, np.float32)
        limited_m = np.nan_to_num(seen_m, nan=NEAR_M, posinf=self._far_m, neginf=NEAR_M).clip(NEAR_M, self._far_m)
        depth_m[self._top : self._top + seen_m.shape[0], self._left : self._left + seen_m.shape[1]] = limited_m
        return DepthMap(depth_m, camera)

    def depth_at(self, uv_px: np.ndarray) -> PointDepths:
        """Returns the depths and deviations of the model at pixels (N, 2) of the frame, which it sees."""
        return self._source.depth_at(uv_px - np.array([self._left, self._top]))

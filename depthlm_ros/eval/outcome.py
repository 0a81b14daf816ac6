"""What was found at the labelled points of one image: the plain numbers from which every score is made."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from depthlm_ros.eval.boundary import Edges
from depthlm_ros.eval.metrics import Sums, median_aligned, sums


@dataclass(frozen=True)
class Whole:
    """Sums over all pixels of a depth map, and the same after the image is scaled by its median."""

    raw: Sums
    aligned: Sums
    edges: Edges


@dataclass(frozen=True)
class Outcome:
    """true_m, predicted_m, std_m: float64 (N,), NaN unknown; slope: float64 (N,), baselines.row_slopes of the points.

    seconds: that the prediction took. refused: why the model would not take the image, "" if it did. whole: of a
    whole depth map, of which the points are then a sample.
    """

    where: str
    true_m: np.ndarray
    predicted_m: np.ndarray
    std_m: np.ndarray
    slope: np.ndarray
    seconds: float
    refused: str = ""
    whole: Whole | None = None

    @property
    def raw(self) -> Sums:
        """Sums over everything that counts in this image."""
        return self.whole.raw if self.whole else sums(self.predicted_m, self.true_m)

    @property
    def aligned(self) -> Sums:
        """The same after scaling by the ratio of medians."""
        if self.whole:
            return self.whole.aligned
        return sums(median_aligned(self.predicted_m, self.true_m), self.true_m)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without `where`, which depends on where the labels lie."""
        arrays = {name: getattr(self, name).tolist() for name in ("true_m", "predicted_m", "std_m", "slope")}
        kept = arrays | {"seconds": self.seconds, "refused": self.refused}
        if self.whole:
            sides = (astuple(self.whole.raw), astuple(self.whole.aligned), self.whole.edges.as_list())
            kept["whole"] = dict(zip(("raw", "aligned", "edges"), sides, strict=True))
        return kept

    @classmethod
    def from_dict(cls, where: str, kept: dict[str, Any]) -> Outcome:
        """Inverse of as_dict; null is NaN."""
        arrays = {name: np.array(kept[name], np.float64) for name in ("true_m", "predicted_m", "std_m", "slope")}
        whole = None
        if given := kept.get("whole"):
            whole = Whole(Sums(*given["raw"]), Sums(*given["aligned"]), Edges.from_list(given["edges"]))
        return cls(where, **arrays, seconds=kept["seconds"], refused=kept["refused"], whole=whole)

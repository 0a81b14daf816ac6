"""NYUv2, as it is inside SUN RGB-D (kv1/NYUdata); raw depth, as in DepthLM's release. See sun.py for what is on disk.

DepthVLM takes the filled depth_bfx; so does --as-released with its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from depthlm_ros.data.caps import CAPS_M
from depthlm_ros.data.sets import sun
from depthlm_ros.data.view import Choice, DataSet, Maker

FOLDER = Path("SUNRGBD") / "kv1" / "NYUdata"


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The scenes."""
    return [path.relative_to(root).as_posix() for path in sun.scenes(root / FOLDER)]


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    filled = choice.as_released and choice.format == "depthvlm"
    return sun.views(root / item, Path(item).name, "depth_bfx" if filled else "depth", CAPS_M["nyuv2"], choice)


SET = DataSet(
    name="nyuv2",
    title="NYUv2 (inside SUN RGB-D)",
    layout="SUNRGBD/kv1/NYUdata/NYU*/{image,depth}/ and intrinsics.txt.",
    items=items,
    views=views,
    corrections=(*sun.CORRECTIONS, "0.005 to 10 m; DepthLM's release takes up to 25 m"),
    caps_m=CAPS_M["nyuv2"],
)

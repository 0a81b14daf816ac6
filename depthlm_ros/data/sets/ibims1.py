# SPDX-License-Identifier: Apache-2.0
"""iBims-1.

On disk: [ibims1_core_raw/]{rgb,depth,mask_invalid,mask_transp}/NAME.png and calib/NAME.txt (fx,fy,cx,cy). Depth along
the optical axis = value * 50 / 65535 metres. Both masks are > 0 where the depth can be trusted, despite their names.
The data set has no splits.

DepthLM's script is unreleased; its example labels equal the depth map along the optical axis, without masks and
limits, which --as-released reproduces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, NO_CAPS_M, DepthFile
from depthlm_ros.data.sets.folder import list_files, require_path
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.image_io import image_size

UNITS_PER_METRE = 65535 / 50
MASKS = ("mask_invalid", "mask_transp")


def items(root: Path, options: ReadOptions) -> Sequence[str]:
    """Returns the images."""
    return [path.stem for path in list_files(_base_folder(root) / "rgb", ".png")]


def views(root: Path, item: str, options: ReadOptions) -> Iterator[LazyView]:
    """Yields the one view of an image."""
    yield item, partial(_load_view, _base_folder(root), item, options)


def _load_view(base: Path, name: str, options: ReadOptions) -> SourceView:
    image = base / "rgb" / f"{name}.png"
    released = options.as_released and options.format == "depthlm"
    caps_m = NO_CAPS_M if released else CAPS_M["ibims"]
    masks = () if released else tuple(require_path(base / mask / f"{name}.png", "mask") for mask in MASKS)
    depth = require_path(base / "depth" / f"{name}.png", "depth map")
    file = DepthFile(depth, UNITS_PER_METRE, masks=masks, caps_m=caps_m)
    calibration = require_path(base / "calib" / f"{name}.txt", "calibration").read_text(encoding="utf-8")
    fx, fy, cx, cy = (float(value) for value in calibration.replace(",", " ").split()[:4])
    return SourceView(
        key=name,
        image=image,
        intrinsics=Intrinsics(fx, fy, cx, cy, *image_size(image)),
        depth_m=read_depth(file),
        depth_file=file,
        caps_m=caps_m,
        scene=name.rsplit("_", 1)[0],
    )


def _base_folder(root: Path) -> Path:
    return root / "ibims1_core_raw" if (root / "ibims1_core_raw").is_dir() else root


SET = DataSet(
    name="ibims1",
    title="iBims-1",
    layout="[ibims1_core_raw/]{rgb,depth,mask_invalid,mask_transp}/NAME.png and calib/NAME.txt.",
    items=items,
    views=views,
    corrections=(
        "glass and pixels marked as invalid get no label; nothing shows that DepthLM's script uses the masks",
        "depth is limited to 0.005 to 25 m; DepthLM's examples have no limit",
    ),
    caps_m=CAPS_M["ibims"],
)

"""iBims-1 (DepthLM's script is unreleased; its example labels equal the depth map along the optical axis).

On disk: [ibims1_core_raw/]{rgb,depth,mask_invalid,mask_transp}/NAME.png, calib/NAME.txt (fx,fy,cx,cy). Depth = value *
50 / 65535. Both masks are > 0 where the depth can be trusted, whatever their names say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, NO_CAPS_M, DepthFile
from depthlm_ros.data.sets.folder import files_in, must_exist
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import image_size

UNITS_PER_METRE = 65535 / 50
MASKS = ("mask_invalid", "mask_transp")


def items(root: Path, choice: Choice) -> Sequence[str]:
    """The images."""
    return [path.stem for path in files_in(_base(root) / "rgb", ".png")]


def views(root: Path, item: str, choice: Choice) -> Iterator[Maker]:
    yield item, partial(_view, _base(root), item, choice)


def _view(base: Path, name: str, choice: Choice) -> View:
    image = base / "rgb" / f"{name}.png"
    released = choice.as_released and choice.format == "depthlm"
    caps_m = NO_CAPS_M if released else CAPS_M["ibims"]
    masks = () if released else tuple(must_exist(base / mask / f"{name}.png", "mask") for mask in MASKS)
    depth = must_exist(base / "depth" / f"{name}.png", "depth map")
    file = DepthFile(depth, UNITS_PER_METRE, masks=masks, caps_m=caps_m)
    calibration = must_exist(base / "calib" / f"{name}.txt", "calibration").read_text(encoding="utf-8")
    fx, fy, cx, cy = (float(value) for value in calibration.replace(",", " ").split()[:4])
    return View(
        key=name,
        image=image,
        intrinsics=Intrinsics(fx, fy, cx, cy, *image_size(image)),
        depth_m=read_depth(file),
        depth_file=file,
        caps_m=caps_m,
        scene=name.rsplit("_", 1)[0],
    )


def _base(root: Path) -> Path:
    return root / "ibims1_core_raw" if (root / "ibims1_core_raw").is_dir() else root


SET = DataSet(
    name="ibims1",
    title="iBims-1",
    layout="[ibims1_core_raw/]{rgb,depth,mask_invalid,mask_transp}/NAME.png and calib/NAME.txt.",
    items=items,
    views=views,
    corrections=(
        "glass and what is marked invalid carry no label; nothing says that DepthLM's script looks at the masks",
        "0.005 to 25 m; DepthLM's examples have no cap",
    ),
    caps_m=CAPS_M["ibims"],
)

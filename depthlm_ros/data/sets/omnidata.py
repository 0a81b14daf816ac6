"""What Taskonomy and HM3D share: Omnidata's renderings of scanned buildings.

On disk: DOMAIN/COMPONENT/BUILDING/point_P_view_V_domain_DOMAIN.png (Omnidata), or BUILDING/DOMAIN/... (Taskonomy's own
archives), for the domains rgb, depth_zbuffer (1/512 m along the optical axis; 65535 is no surface), point_info (JSON:
field_of_view_rads) and, where it was downloaded, mask_valid (files named for mask_valid or depth_zbuffer). Pixels are
square and the camera looks at the middle of the image, so that f = W / (2 tan(fov / 2)).

Taskonomy (DepthLM's script is unreleased; as DepthVLM reads it, from Omnidata's renderings, see omnidata.py).

Splits: where ROOT holds train_val_test_fullplus.csv (Taskonomy's own list: id, train, val, test), --split chooses one.

HM3D (DepthLM's script is unreleased; as DepthVLM reads it, from Omnidata's renderings, see omnidata.py).

Splits: where ROOT holds metadata.csv (of habitat-matterport-3dresearch: scene, split), --split chooses one.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, DepthFile
from depthlm_ros.data.sets.folder import files_in, in_split, must_exist
from depthlm_ros.data.source_view import Choice, DataSet, Maker, View
from depthlm_ros.image_io import image_size

RGB, DEPTH, INFO, MASK = "rgb", "depth_zbuffer", "point_info", "mask_valid"
UNITS_PER_METRE = 512.0


# ROOT -> {building: split}, empty where ROOT does not say it.
Splits = Callable[[Path], dict[str, str]]


def omnidata_set(component: str, title: str, layout: str, splits: Splits) -> DataSet:
    """One of the data sets that Omnidata has rendered."""
    return DataSet(
        name=component,
        title=title,
        layout=layout,
        items=lambda root, choice: _items(component, root, choice, splits(root)),
        views=lambda root, item, choice: _views(component, root, item, choice, splits(root).get(item, "")),
        corrections=("the focal length is reckoned for the image's own width; DepthVLM takes the one in point_info",),
        caps_m=CAPS_M[component],
    )


def _items(component: str, root: Path, choice: Choice, splits: dict[str, str]) -> Sequence[str]:
    """The buildings of a split. splits: building -> split."""
    nested = root / RGB / component
    if nested.is_dir():
        names = sorted(path.name for path in nested.iterdir() if path.is_dir())
    else:
        names = sorted(path.parent.name for path in root.glob(f"*/{RGB}") if path.is_dir())
    return in_split(names, choice.split, splits)


def _views(component: str, root: Path, item: str, choice: Choice, split: str) -> Iterator[Maker]:
    """One view for each picture of a building."""
    for image in files_in(_folder(component, root, item, RGB), ".png"):
        stem = image.stem.removesuffix("_domain_rgb")
        yield stem, partial(_view, component, root, item, image, stem, choice, split)


def _view(component: str, root: Path, item: str, image: Path, stem: str, choice: Choice, split: str) -> View:
    depth, info, masks = (_folder(component, root, item, domain) for domain in (DEPTH, INFO, MASK))
    about = json.loads(must_exist(info / f"{stem}_domain_{INFO}.json", "point info").read_text(encoding="utf-8"))
    size_px = image_size(image)
    width_px = int(about.get("resolution", 512)) if choice.as_released else size_px[0]
    caps_m = CAPS_M[component]
    named = (masks / f"{stem}_domain_{name}.png" for name in (MASK, DEPTH))
    file = DepthFile(
        must_exist(depth / f"{stem}_domain_{DEPTH}.png", "depth map"),
        UNITS_PER_METRE,
        masks=tuple(path for path in named if path.exists())[:1],
        caps_m=caps_m,
    )
    return View(
        key=f"{item}/{stem}",
        image=image,
        intrinsics=_camera(float(about["field_of_view_rads"]), width_px, size_px),
        depth_m=read_depth(file),
        depth_file=file,
        caps_m=caps_m,
        scene=item,
        split=split,
    )


def _camera(fov_rad: float, width_px: int, size_px: tuple[int, int]) -> Intrinsics:
    """The camera of a picture of size_px whose focal length is reckoned for a width of width_px."""
    focal_px = width_px / (2 * math.tan(fov_rad / 2))
    width, height = size_px
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def _folder(component: str, root: Path, item: str, domain: str) -> Path:
    nested = root / domain / component / item
    return nested if (root / RGB / component).is_dir() else root / item / domain


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none if it is not there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


TASKONOMY_SPLITS = "train_val_test_fullplus.csv"


@lru_cache(maxsize=1)
def _taskonomy_splits(root: Path) -> dict[str, str]:
    """Building -> train, val or test."""
    rows = table(root / TASKONOMY_SPLITS)
    return {row["id"].strip(): name for row in rows for name in ("train", "val", "test") if row[name].strip() == "1"}


TASKONOMY = omnidata_set(
    component="taskonomy",
    title="Taskonomy",
    layout="rgb/taskonomy/BUILDING/*_domain_rgb.png, depth_zbuffer/ and point_info/ beside rgb/; or BUILDING/rgb/ ...",
    splits=_taskonomy_splits,
)

HM3D_SPLITS = "metadata.csv"


@lru_cache(maxsize=1)
def _hm3d_splits(root: Path) -> dict[str, str]:
    return {row["scene"].strip(): row["split"].strip() for row in table(root / HM3D_SPLITS)}


HM3D = omnidata_set(
    component="hm3d",
    title="HM3D",
    layout="rgb/hm3d/SCENE/*_domain_rgb.png with depth_zbuffer/ and point_info/ beside rgb/.",
    splits=_hm3d_splits,
)

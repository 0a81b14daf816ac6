# SPDX-License-Identifier: Apache-2.0
"""Taskonomy (TASKONOMY) and HM3D (HM3D) in Omnidata's renderings of scanned buildings.

On disk: DOMAIN/COMPONENT/BUILDING/point_P_view_V_domain_DOMAIN.png (Omnidata) or BUILDING/DOMAIN/... (Taskonomy's own
archives), for the domains rgb, depth_zbuffer (1/512 m along the optical axis; 65535 means no surface), point_info (JSON
with field_of_view_rads) and, if it was downloaded, mask_valid (files named after mask_valid or depth_zbuffer). Pixels
are square and the camera looks at the middle of the image, so that f = W / (2 tan(fov / 2)).

Splits: --split needs a list in ROOT: train_val_test_fullplus.csv for Taskonomy (Taskonomy's own list with the columns
id, train, val, test), metadata.csv for HM3D (of habitat-matterport-3dresearch, with the columns scene, split).

DepthLM's scripts for these data sets are unreleased; they are read as DepthVLM reads them. DepthVLM computes the focal
length for the width in point_info, which may not be the width of the image; --as-released reproduces that.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeAlias

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_depth
from depthlm_ros.data.records import CAPS_M, DepthFile
from depthlm_ros.data.sets.folder import list_files, require_path
from depthlm_ros.data.source_view import DataSet, LazyView, ReadOptions, SourceView
from depthlm_ros.file_io import parse_json
from depthlm_ros.image_io import image_size

RGB, DEPTH, INFO, MASK = "rgb", "depth_zbuffer", "point_info", "mask_valid"
UNITS_PER_METRE = 512.0
TASKONOMY_SPLITS = "train_val_test_fullplus.csv"
HM3D_SPLITS = "metadata.csv"
# Function from ROOT to {building: split}, which is empty if ROOT has no list of splits.
ReadSplits: TypeAlias = Callable[[Path], dict[str, str]]


def omnidata_set(component: str, title: str, layout: str, read_splits: ReadSplits) -> DataSet:
    """Returns one of the data sets that Omnidata has rendered. component: its name in Omnidata's folders."""
    return DataSet(
        name=component,
        title=title,
        layout=layout,
        items=lambda root, options: _items(component, root, options, read_splits(root)),
        views=lambda root, item, options: _views(component, root, item, options, read_splits(root).get(item, "")),
        corrections=("the focal length is computed for the width of the image; DepthVLM uses the width in point_info",),
        caps_m=CAPS_M[component],
    )


def _items(component: str, root: Path, options: ReadOptions, splits: dict[str, str]) -> Sequence[str]:
    """Returns the buildings of a split. splits: building -> split."""
    nested = root / RGB / component
    if nested.is_dir():
        names = sorted(path.name for path in nested.iterdir() if path.is_dir())
    else:
        names = sorted(path.parent.name for path in root.glob(f"*/{RGB}") if path.is_dir())
    return [name for name in names if not options.split or splits.get(name) == options.split]


def _views(component: str, root: Path, item: str, options: ReadOptions, split: str) -> Iterator[LazyView]:
    """Yields one view for each image of a building."""
    for image in list_files(_folder(component, root, item, RGB), ".png"):
        stem = image.stem.removesuffix("_domain_rgb")
        yield stem, partial(_load_view, component, root, item, image, stem, options, split)


def _load_view(
    component: str, root: Path, item: str, image: Path, stem: str, options: ReadOptions, split: str
) -> SourceView:
    depth, info, masks = (_folder(component, root, item, domain) for domain in (DEPTH, INFO, MASK))
    about = parse_json(require_path(info / f"{stem}_domain_{INFO}.json", "point info").read_text(encoding="utf-8"))
    size_px = image_size(image)
    width_px = int(about.get("resolution", 512)) if options.as_released else size_px[0]
    caps_m = CAPS_M[component]
    mask_paths = (masks / f"{stem}_domain_{name}.png" for name in (MASK, DEPTH))
    file = DepthFile(
        require_path(depth / f"{stem}_domain_{DEPTH}.png", "depth map"),
        UNITS_PER_METRE,
        masks=tuple(path for path in mask_paths if path.exists())[:1],
        caps_m=caps_m,
    )
    return SourceView(
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
    """Returns the camera of an image of size_px whose focal length is computed for a width of width_px."""
    focal_px = width_px / (2 * math.tan(fov_rad / 2))
    width, height = size_px
    return Intrinsics(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def _folder(component: str, root: Path, item: str, domain: str) -> Path:
    nested = root / domain / component / item
    return nested if (root / RGB / component).is_dir() else root / item / domain


def _read_csv(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file; none if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1)
def _read_taskonomy_splits(root: Path) -> dict[str, str]:
    """Returns {building: train, val or test}."""
    rows = _read_csv(root / TASKONOMY_SPLITS)
    return {row["id"].strip(): name for row in rows for name in ("train", "val", "test") if row[name].strip() == "1"}


TASKONOMY = omnidata_set(
    component="taskonomy",
    title="Taskonomy",
    layout="rgb/taskonomy/BUILDING/*_domain_rgb.png, depth_zbuffer/ and point_info/ beside rgb/; or BUILDING/rgb/ ...",
    read_splits=_read_taskonomy_splits,
)


@lru_cache(maxsize=1)
def _read_hm3d_splits(root: Path) -> dict[str, str]:
    """Returns {building: split}."""
    return {row["scene"].strip(): row["split"].strip() for row in _read_csv(root / HM3D_SPLITS)}


HM3D = omnidata_set(
    component="hm3d",
    title="HM3D",
    layout="rgb/hm3d/SCENE/*_domain_rgb.png with depth_zbuffer/ and point_info/ beside rgb/.",
    read_splits=_read_hm3d_splits,
)

# SPDX-License-Identifier: Apache-2.0
"""The names of things that the embedded model knows, and what pictures say about them, token by token.

A label grid, int8 (N, len(NAMES)), says for each of N image tokens whether it shows a thing of each name: PRESENT,
ABSENT or UNKNOWN. In rendered pictures it follows from the scene. In photographs it follows from the boxes of a
detector and the classes of a segmenter, which know only some of the names.
"""

from __future__ import annotations

from itertools import chain

import numpy as np

from depthlm_ros.data.photo_labels import SEGMENT_CLASSES, UNKNOWN_SEGMENT, PhotoBox
from depthlm_ros.scenes.questions.wording import FURNITURE_KINDS, SIMILAR_KIND_GROUPS
from depthlm_ros.scenes.renderer.render import RenderedImage
from depthlm_ros.scenes.world.primitives import SIMPLE_KINDS

# Classes of COCO, in the words of the rendered scenes where these have one. Other classes keep their name.
NAME_OF_CLASS = {
    "couch": "sofa",
    "refrigerator": "fridge",
    "potted plant": "plant",
    "tv": "television",
    "dining table": "table",
    "handbag": "bag",
}
# Classes of the segmenter that are things with a place. The others are parts of the building or the ground.
NAME_OF_SEGMENT = {
    **{name: name for name in ("bed", "window", "cabinet", "door", "table", "plant", "curtain", "chair", "sofa")},
    **{name: name for name in ("shelf", "mirror", "rug", "armchair", "person", "car", "tree")},
    "painting": "picture",
}
# What photographs show beside the kinds of the rendered scenes.
PHOTO_ONLY_NAMES = (
    *("oven", "microwave", "bowl", "vase", "book", "cat", "dog", "suitcase", "keyboard", "backpack", "umbrella"),
    *("curtain", "mirror", "teddy bear", "wine glass"),
)
NAMES = (*SIMPLE_KINDS, *FURNITURE_KINDS, *PHOTO_ONLY_NAMES)
INDEX = {name: index for index, name in enumerate(NAMES)}
# Names that a detector for COCO knows: without a box, a photograph does not show them.
DETECTED_NAMES = frozenset(
    (
        *("person", "bicycle", "car", "bench", "cat", "dog", "backpack", "umbrella", "bag", "suitcase", "bottle"),
        *("wine glass", "cup", "bowl", "chair", "sofa", "plant", "bed", "table", "toilet", "television", "laptop"),
        *("keyboard", "microwave", "oven", "sink", "fridge", "book", "clock", "vase", "teddy bear"),
    )
)
# Words that people use for the same thing: naming one of a group for another one is no mistake.
SIMILAR_GROUPS = (*SIMILAR_KIND_GROUPS, ("oven", "microwave"), ("bowl", "cup", "vase"), ("bag", "backpack", "suitcase"))
IRREGULAR_PLURALS = {"person": "people", "shelf": "shelves"}
PRESENT, ABSENT, UNKNOWN = 1, 0, -1
# A token shows a class of the segmenter from this share of its pixels on.
LEAST_SEGMENT_SHARE = 0.5
# A rendered token shows a thing that fills this share of it, or that has this share of its pixels there.
LEAST_FILL, LEAST_PART = 0.1, 0.25
# Of a box, only the inner part surely shows its thing, and only beyond the outer part surely nothing is shown of it.
INNER, OUTER = 0.6, 1.1


def name_of_class(detected: str) -> str:
    """Returns the name of a detector's class."""
    return NAME_OF_CLASS.get(detected, detected)


def similar_names(name: str) -> frozenset[str]:
    """Returns the names that people may use for a thing of this name, itself included."""
    return frozenset({name, *chain.from_iterable(group for group in SIMILAR_GROUPS if name in group)})


def plural(name: str) -> str:
    """Returns the plural of a name."""
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def rendered_names(rendered: RenderedImage, token_px: int) -> np.ndarray:
    """Returns the label grid of a rendered picture. What the renderer cannot draw is unknown."""
    pixels = count_object_pixels(rendered, token_px)
    shown = (pixels >= LEAST_FILL * token_px**2) | ((pixels > 0) & (pixels >= LEAST_PART * pixels.sum(0)))
    grid = np.full((len(pixels), len(NAMES)), UNKNOWN, np.int8)
    grid[:, : len(SIMPLE_KINDS) + len(FURNITURE_KINDS)] = ABSENT
    for thing in rendered.scene.objects:
        if thing.object_id < shown.shape[1] and thing.kind in INDEX:
            grid[shown[:, thing.object_id], INDEX[thing.kind]] = PRESENT
    return grid


def count_object_pixels(rendered: RenderedImage, token_px: int) -> np.ndarray:
    """Returns int64 (N, K): the number of pixels of each of K objects in each of N tokens."""
    height, width = rendered.object_id.shape
    columns = width // token_px
    v, u = np.nonzero(rendered.object_id >= 0)
    token, tokens = v // token_px * columns + u // token_px, height // token_px * columns
    thing, count = rendered.object_id[v, u].astype(np.int64), int(rendered.object_id.max(initial=-1)) + 1
    return np.bincount(token * count + thing, minlength=tokens * count).reshape(tokens, count)


def photo_names(
    boxes: tuple[PhotoBox, ...],
    maybe: frozenset[str],
    segments: np.ndarray | None,
    has_boxes: bool,
    size_px: tuple[int, int],
    token_px: int,
) -> np.ndarray:
    """Returns the label grid of a photograph on a canvas of size_px (width, height).

    boxes: in pixels of the canvas. segments: uint8 (H/4, W/4) on the canvas, None if unknown.
    """
    columns, rows = (extent // token_px for extent in size_px)
    grid = np.full((rows, columns, len(NAMES)), UNKNOWN, np.int8)
    if has_boxes:
        grid[:, :, [INDEX[name] for name in DETECTED_NAMES]] = ABSENT
    if segments is not None:
        _mark_segments(grid, segments)
    if has_boxes:
        grid[:, :, [INDEX[name] for name in map(name_of_class, maybe) if name in INDEX]] = UNKNOWN
        _mark_boxes(grid, boxes, token_px)
    return grid.reshape(rows * columns, len(NAMES))


def _mark_segments(grid: np.ndarray, segments: np.ndarray) -> None:
    """A class that fills a token is present there, and absent where it has no pixel at all."""
    rows, columns = grid.shape[:2]
    cell = segments.shape[0] // rows
    cells = segments.reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(rows, columns, -1)
    known = (cells != UNKNOWN_SEGMENT).all(2)
    for code, segment in enumerate(SEGMENT_CLASSES):
        if (name := NAME_OF_SEGMENT.get(segment)) is None:
            continue
        share = (cells == code).mean(2)
        labels = grid[:, :, INDEX[name]]
        labels[known & (share == 0) & (labels != PRESENT)] = ABSENT
        labels[(share > 0) & (share < LEAST_SEGMENT_SHARE)] = UNKNOWN
        labels[share >= LEAST_SEGMENT_SHARE] = PRESENT


def _mark_boxes(grid: np.ndarray, boxes: tuple[PhotoBox, ...], token_px: int) -> None:
    rows, columns = grid.shape[:2]
    u, v = ((np.arange(count) + 0.5) * token_px for count in (columns, rows))
    for box in boxes:
        name = name_of_class(box.name)
        if name not in INDEX:
            continue
        labels = grid[:, :, INDEX[name]]
        away_u, away_v = (
            np.abs(axis - (low + high) / 2) / max((high - low) / 2, token_px / 2)
            for axis, low, high in ((u, box.x0, box.x1), (v, box.y0, box.y1))
        )
        away = np.maximum(away_u[None], away_v[:, None])
        labels[(away < OUTER) & (labels == ABSENT)] = UNKNOWN
        labels[away < INNER] = PRESENT

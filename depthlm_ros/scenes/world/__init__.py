# SPDX-License-Identifier: Apache-2.0
"""What scenes contain: rooms, furniture, small objects and streets, built from boxes, ellipsoids and frustums. `sample`
draws whole scenes, `halls` and `closeups` draw those with far and near views, and `primitives` defines the types.
"""

__all__ = [
    "belongings",
    "building",
    "catalogue",
    "close_things",
    "closeups",
    "clutter",
    "colours",
    "dice",
    "equipment",
    "furniture",
    "hall_pieces",
    "halls",
    "household",
    "layout",
    "on_walls",
    "outdoors",
    "primitives",
    "sample",
    "structure",
    "tabletop",
]

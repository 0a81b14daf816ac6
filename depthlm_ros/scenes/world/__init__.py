"""What scenes contain: rooms, furniture, small objects and streets, built from boxes, ellipsoids and frustums. `sample`
draws whole scenes, and `primitives` defines the types.
"""

__all__ = [
    "belongings",
    "building",
    "catalogue",
    "clutter",
    "colours",
    "dice",
    "equipment",
    "furniture",
    "household",
    "layout",
    "on_walls",
    "outdoors",
    "primitives",
    "sample",
    "structure",
    "tabletop",
]

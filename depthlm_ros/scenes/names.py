"""What things may be called in a picture, and which names fit nothing in it."""

from __future__ import annotations

from depthlm_ros.scenes.colours import NAMED
from depthlm_ros.scenes.primitives import SIMPLE_KINDS, SceneObject

# Kinds that people use for each other: where one of a group is in view, nobody is told that there is no other.
GROUPS = (
    ("table", "desk", "counter", "bench"),
    ("chair", "armchair", "stool", "sofa", "bench"),
    ("cabinet", "wardrobe", "shelf", "counter", "fridge"),
    ("monitor", "television", "laptop"),
    ("bin", "basket"),
    ("cup", "bottle"),
    ("toilet", "sink", "bathtub"),
    ("plant", "tree"),
    ("car", "truck"),
    ("window", "picture"),
)


# Parts of other things pass for these (ceiling lights, boards on walls): of them nobody says "there is none".
AMBIGUOUS = ("lamp", "bench", "picture", "bag")


FURNITURE_KINDS = (
    *("table", "chair", "shelf", "cabinet", "sofa", "bed", "lamp", "door", "window", "desk", "armchair", "stool"),
    *("person", "plant", "monitor", "bin", "bench", "fridge", "cup", "bottle", "counter", "wardrobe", "television"),
    *("toilet", "sink", "bathtub", "washing machine", "piano", "bicycle", "radiator", "picture", "rug", "clock"),
    *("laptop", "bag", "car", "tree"),
)


OUTDOORS = ("car", "tree")


DYED_KINDS = ("sofa", "armchair", "stool", "bin", "bag", "door", "bicycle", "car")


VOCABULARY = tuple(f"{c} {k}" for k in SIMPLE_KINDS for c in NAMED) + FURNITURE_KINDS


ALIKE = {kind: {kind}.union(*(group for group in GROUPS if kind in group)) for kind in FURNITURE_KINDS}


def names_of(thing: SceneObject, others: list[SceneObject]) -> list[str]:
    """What a thing may be called so that it is told from the other things in view."""
    alike = [other for other in others if other.kind == thing.kind]
    if thing.kind in SIMPLE_KINDS:
        return [] if any(other.colour == thing.colour for other in alike) else [thing.name]
    names = [] if alike else [thing.name]
    if thing.colour and all(other.colour not in ("", thing.colour) for other in alike):
        names.append(f"{thing.colour} {thing.kind}")
    return names


def absent_names(things: list[SceneObject]) -> tuple[str, ...]:
    """Names that fit nothing in view, not even roughly."""
    kinds, names = {thing.kind for thing in things}, {thing.name for thing in things}
    absent = [f"{c} {k}" for k in SIMPLE_KINDS for c in NAMED if f"{c} {k}" not in names]
    absent += [kind for kind in FURNITURE_KINDS if kind not in AMBIGUOUS and not ALIKE[kind] & kinds]
    for kind in DYED_KINDS:
        colours = {thing.colour for thing in things if thing.kind == kind}
        if kind not in AMBIGUOUS and "" not in colours and not (ALIKE[kind] - {kind}) & kinds:
            absent += [f"{c} {kind}" for c in NAMED if c not in colours]
    return tuple(absent)

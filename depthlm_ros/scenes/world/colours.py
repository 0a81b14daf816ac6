# SPDX-License-Identifier: Apache-2.0
"""Albedos: colours with names (NAMED_COLOURS), and functions that draw materials of rooms and furniture."""

from __future__ import annotations

from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.primitives import (
    BRICKS,
    CHECKER,
    MARBLE,
    NOISE,
    PATCHES,
    PLAIN,
    SPECKLE,
    STRIPES,
    TILES,
    WOOD,
    Paint,
    Rgb,
)

NAMED_COLOURS: dict[str, Rgb] = {
    "red": (0.62, 0.03, 0.03),
    "green": (0.04, 0.38, 0.07),
    "blue": (0.03, 0.09, 0.55),
    "yellow": (0.80, 0.62, 0.03),
    "orange": (0.82, 0.25, 0.02),
    "purple": (0.25, 0.04, 0.38),
    "pink": (0.80, 0.25, 0.40),
    "white": (0.82, 0.82, 0.80),
    "black": (0.02, 0.02, 0.02),
    "gray": (0.22, 0.22, 0.22),
    "brown": (0.17, 0.07, 0.025),
}

WOODS: tuple[tuple[Rgb, Rgb], ...] = (
    ((0.42, 0.26, 0.13), (0.28, 0.15, 0.07)),
    ((0.60, 0.44, 0.27), (0.48, 0.32, 0.18)),
    ((0.16, 0.08, 0.04), (0.09, 0.045, 0.025)),
    ((0.70, 0.58, 0.42), (0.60, 0.47, 0.31)),
    ((0.33, 0.14, 0.07), (0.22, 0.08, 0.04)),
)

FABRICS: tuple[Rgb, ...] = (
    (0.30, 0.28, 0.25),
    (0.08, 0.10, 0.16),
    (0.35, 0.25, 0.16),
    (0.18, 0.05, 0.05),
    (0.10, 0.17, 0.12),
    (0.55, 0.52, 0.46),
    (0.05, 0.05, 0.05),
    (0.20, 0.30, 0.40),
    (0.42, 0.40, 0.40),
    (0.62, 0.60, 0.56),
    (0.28, 0.10, 0.06),
    (0.05, 0.13, 0.20),
    (0.45, 0.33, 0.12),
    (0.13, 0.13, 0.14),
)


def wood(dice: Dice) -> Paint:
    """Draws furniture wood: fine grain, no wide planks."""
    light, dark = dice.pick(WOODS)
    return dice.paint(light, dark, WOOD, dice.between(0.12, 0.5), gloss=dice.pick((0.0, 0.02, 0.06)))


def lacquer(dice: Dice) -> Paint:
    """Draws a painted or laminated board."""
    tone = dice.pick((0.75, 0.70, 0.55, 0.30, 0.12, 0.04))
    return dice.paint((tone, tone * dice.between(0.93, 1), tone * dice.between(0.85, 1)), gloss=dice.pick((0.0, 0.03)))


def board(dice: Dice) -> Paint:
    """Draws the material of a table or a cabinet."""
    return wood(dice) if dice.chance(0.6) else lacquer(dice)


def fabric(dice: Dice) -> Paint:
    """Draws upholstery, plain or with a weave."""
    rgb = dice.pick(FABRICS)
    kind = dice.pick((PLAIN, PLAIN, NOISE, NOISE, STRIPES, CHECKER))
    gain = dice.between(0.6, 1.5)
    return dice.paint(rgb, (rgb[0] * gain, rgb[1] * gain, rgb[2] * gain), kind, dice.between(0.02, 0.1))


def named_colour_or_fabric(dice: Dice, share: float = 0.3) -> tuple[str, Paint]:
    """Draws one plain named colour in this share of calls, else a fabric; returns the name of the colour ("" for a
    fabric) and the paint."""
    if not dice.chance(share):
        return "", fabric(dice)
    name = dice.pick(tuple(NAMED_COLOURS))
    kind = dice.pick((PLAIN, PLAIN, NOISE))
    r, g, b = dice.similar_colour(NAMED_COLOURS[name], 0.05)
    return name, Paint((r, g, b), (0.85 * r, 0.85 * g, 0.85 * b), kind, dice.between(0.01, 0.05), seed=dice.seed())


def metal(dice: Dice) -> Paint:
    """Draws the metal of legs and frames."""
    tone = dice.pick((0.03, 0.05, 0.3, 0.5, 0.6))
    return dice.paint((tone, tone, tone), gloss=0.08)


def floor(dice: Dice) -> Paint:
    """Draws a floor: parquet, tiles, carpet, linoleum or stone."""
    kind = dice.unit()
    if kind < 0.35:
        light, dark = dice.pick(WOODS)
        return dice.paint(light, dark, WOOD, dice.between(0.04, 0.12), gloss=dice.pick((0.0, 0.03, 0.1)))
    tone = dice.between(0.12, 0.6)
    base = (tone, tone * dice.between(0.85, 1.02), tone * dice.between(0.7, 1.02))
    if kind < 0.6:
        joint = dice.between(0.3, 0.8)
        rgb2 = (base[0] * joint, base[1] * joint, base[2] * joint)
        texture = TILES if dice.chance(0.8) else CHECKER
        return dice.paint(
            base, rgb2, texture, dice.pick((0.15, 0.3, 0.3, 0.45, 0.6)), gloss=dice.pick((0.0, 0.05, 0.15))
        )
    rgb2 = (base[0] * 0.8, base[1] * 0.8, base[2] * 0.8)
    if kind < 0.85:
        carpet = dice.pick(FABRICS) if dice.chance(0.5) else base
        other = (carpet[0] * 0.7, carpet[1] * 0.7, carpet[2] * 0.7)
        return dice.paint(carpet, other, dice.pick((NOISE, NOISE, SPECKLE)), dice.pick((0.015, 0.03, 0.06, 0.5)))
    return dice.paint(base, rgb2, dice.pick((NOISE, MARBLE)), dice.between(0.1, 0.8), gloss=dice.pick((0.0, 0.04, 0.1)))


def wall(dice: Dice) -> Paint:
    """Draws a wall: mostly light plaster; sometimes coloured, brick, panelled or with wallpaper."""
    tone = dice.between(0.45, 0.8)
    rgb = (tone, tone * dice.between(0.9, 1.0), tone * dice.between(0.75, 1.0))
    if dice.chance(0.2):
        # Tinted; strong colours are rare on walls.
        pale = dice.pick((0.2, 0.5, 0.5, 0.75))
        rgb = tuple(tone * (pale + (1 - pale) * dice.unit()) for _ in range(3))  # type: ignore[assignment]
    kind = dice.unit()
    if kind < 0.62:
        return dice.paint(rgb)
    if kind < 0.72:
        # Rough plaster, woodchip, wear.
        worn = dice.between(0.75, 0.97)
        rgb2 = (rgb[0] * worn, rgb[1] * worn, rgb[2] * worn)
        return dice.paint(rgb, rgb2, dice.pick((NOISE, SPECKLE, MARBLE)), dice.pick((0.01, 0.05, 0.4, 1.5)))
    rgb2 = (rgb[0] * 0.8, rgb[1] * 0.8, rgb[2] * 0.8)
    if kind < 0.77:
        brick = dice.pick(((0.35, 0.15, 0.09), (0.35, 0.15, 0.09), (0.6, 0.57, 0.52), (0.28, 0.2, 0.15)))
        return dice.paint(brick, (0.5, 0.47, 0.42), BRICKS, dice.pick((0.065, 0.075, 0.2)))
    if kind < 0.79:
        return dice.paint(rgb, (0.6, 0.6, 0.58), PATCHES, dice.between(0.1, 0.5))
    if kind < 0.86:
        return dice.paint(*dice.pick(WOODS), WOOD, dice.between(0.06, 0.2))
    if kind < 0.93:
        return dice.paint(rgb, rgb2, STRIPES, dice.between(0.08, 0.3))
    return dice.paint(rgb, rgb2, TILES, dice.pick((0.1, 0.15, 0.3)), gloss=0.05)


def ceiling(dice: Dice) -> Paint:
    """Draws a ceiling: white, with or without panels."""
    tone = dice.between(0.6, 0.85)
    if dice.chance(0.4):
        return dice.paint((tone, tone, tone), (tone * 0.7, tone * 0.7, tone * 0.7), TILES, dice.pick((0.6, 0.625)))
    return dice.paint((tone, tone, tone * 0.97))

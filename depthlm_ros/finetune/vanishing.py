"""A focal length from one image of something built, by the directions that its edges share.

Edges of rooms, streets and furniture mostly run along three directions at right angles. Each pair of these has two
vanishing points v1, v2 (from the image's centre), and f^2 = -v1 . v2 (Caprile and Torre, "Using vanishing points for
camera calibration", 1990). Pairs are drawn from line segments (von Gioi et al.'s LSD, in OpenCV), each is judged by the
length of the segments that one of its three directions explains, and the best have to agree: where they do not, as in
a view straight at a wall, which says nothing about f, nothing is said. bench/focal.py measures how good it is.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

# Segments are looked for in an image of this longer side; lengths below are in longer sides.
LONG_PX = 640
SHORTEST, MOST_SEGMENTS, LEAST_SEGMENTS = 0.04, 250, 12
# Fields of view from 120 to 26 degrees along the longer side.
FOCALS = (0.29, 2.2)
DRAWN = 4000
# A segment that misses a vanishing point by more is not explained by it.
MISSED_DEG = 1.5
# So many of the best have to agree, the middle 60 % of their weight within so much of ln f.
BEST, AGREED = 25, 0.2


def focal_from_lines(rgb: np.ndarray) -> float | None:
    """Focal length in pixels, the same on both axes, of an image uint8 (H, W, 3) whose principal point is its centre;
    None where its lines do not tell. The same image gives the same number."""
    segments = find_segments(rgb)
    if len(segments) < LEAST_SEGMENTS:
        return None
    focal, directions = _draw_frames(segments)
    if len(focal) < BEST:
        return None
    found = _agreed(focal, _explained(segments, focal, directions))
    return None if found is None else found * max(rgb.shape[:2])


def find_segments(rgb: np.ndarray) -> np.ndarray:
    """float64 (N, 4): both ends (x, y, x, y) of the longest segments, from the image's centre, in longer sides."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = LONG_PX / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = cv2.createLineSegmentDetector().detect(grey)[0]
    if found is None:
        return np.zeros((0, 4))
    centre = (np.array(grey.shape[::-1]) - 1) / 2
    segments = (found.reshape(-1, 4).astype(np.float64) - np.tile(centre, 2)) / max(grey.shape)
    lengths = _lengths(segments)
    longest = np.argsort(-lengths, kind="stable")[:MOST_SEGMENTS]
    return segments[longest[lengths[longest] > SHORTEST]]


def _lengths(segments: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1))


def _draw_frames(segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Focal lengths (F,), and three directions at right angles (3, F, 3), of pairs of vanishing points, each where two
    segments meet. Longer segments are drawn more often."""
    ends = np.insert(segments.reshape(-1, 2, 2), 2, 1.0, axis=2)
    lines, weight = np.cross(ends[:, 0], ends[:, 1]), np.sqrt(_lengths(segments))
    drawn = np.random.default_rng(0).choice(len(segments), (DRAWN, 4), p=weight / weight.sum())
    v1, v2 = (np.cross(lines[drawn[:, k]], lines[drawn[:, k + 1]]) for k in (0, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        focal = np.sqrt(-(v1[:, :2] * v2[:, :2]).sum(1) / (v1[:, 2] * v2[:, 2]))
    usable = (focal > FOCALS[0]) & (focal < FOCALS[1])
    focal = focal[usable]
    first, second = (_unit(np.column_stack([v[usable, :2], v[usable, 2] * focal])) for v in (v1, v2))
    return focal, np.stack([first, second, np.cross(first, second)])


def _explained(segments: np.ndarray, focal: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """float64 (F,): the share of the segments' length that points at one of the three vanishing points of a frame; what
    points at it less exactly counts less."""
    middles, along = (segments[:, :2] + segments[:, 2:]) / 2, _unit(segments[:, 2:] - segments[:, :2])
    best = np.zeros((len(focal), len(segments)))
    for direction in directions:
        # Towards the vanishing point, also where that is at infinity.
        towards = _unit(focal[:, None, None] * direction[:, None, :2] - direction[:, None, 2:] * middles)
        sine = towards[..., 0] * along[:, 1] - towards[..., 1] * along[:, 0]
        best = np.maximum(best, 1 - (sine / math.sin(math.radians(MISSED_DEG))) ** 2)
    lengths = _lengths(segments)
    return np.asarray(best @ lengths / lengths.sum())


def _agreed(focal: np.ndarray, score: np.ndarray) -> float | None:
    """The weighted median of the best, None if they do not agree."""
    best = np.argsort(-score, kind="stable")[:BEST]
    best = best[np.argsort(focal[best], kind="stable")]
    share = np.cumsum(score[best]) / score[best].sum()
    low, middle, high = np.log(focal[best][np.searchsorted(share, (0.2, 0.5, 0.8))])
    return float(math.exp(middle)) if high - low < AGREED else None


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-12))

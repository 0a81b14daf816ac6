"""How near and far depth is believed, metres: DepthVLM's caps per data set, found by a word in the name of the file.

Source: DepthVLM's released loader, which matches the path of the JSONL file and sets what is outside to unknown.
"""

from __future__ import annotations

from pathlib import Path

NO_CAPS_M = (0.0, float("inf"))
CAPS_M = {
    "argoverse": (0.05, 120.0),
    "ddad": (0.05, 120.0),
    "waymo": (0.05, 70.0),
    "nuscenes": (0.05, 80.0),
    "scannetpp": (0.001, 10.0),
    "taskonomy": (0.005, 15.0),
    "hm3d": (0.01, 10.0),
    "matterport": (0.01, 10.0),
    "sunrgbd": (0.005, 8.0),
    "ibims": (0.005, 25.0),
    "nyuv2": (0.005, 10.0),
    "eth3d": (0.01, 50.0),
}


def caps_for(path: Path) -> tuple[float, float]:
    """(nearest, farthest) for a JSONL file, by the first word that its path holds; no caps if it holds none."""
    text = str(path).lower()
    return next((caps for word, caps in CAPS_M.items() if word in text), NO_CAPS_M)

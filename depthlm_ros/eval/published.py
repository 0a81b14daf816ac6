"""Published scores, to be printed beside one's own: which stand beside which runs, and of which data set a run is."""

from __future__ import annotations

from pathlib import Path

from depthlm_ros.errors import BadInput
from depthlm_ros.eval.published_depth import (
    ABLATIONS,
    DENSE_ABSREL,
    DENSE_RMSE,
    DEPTHLM_BENCH,
    DEPTHVLM_DENSE,
    DEPTHVLM_SPARSE,
    SECONDS,
)
from depthlm_ros.eval.published_words import (
    CORRESPONDENCE,
    DEPTHLM_TASKS,
    POSE,
    SPATIALRGPT_ABSREL,
    SPATIALRGPT_DIRECTION,
    SPATIALRGPT_QUALITATIVE,
    SPATIALRGPT_QUANTITATIVE,
)

OBJECT_BENCH = SPATIALRGPT_QUALITATIVE.title

# Data sets by a word in the path of the labels, the more special first.
WORDS = {
    "spatialrgpt": OBJECT_BENCH,
    "argoverse": "Argoverse2",
    "argo2": "Argoverse2",
    "waymo": "Waymo",
    "ddad": "DDAD",
    "nuscenes": "nuScenes",
    "eth3d": "ETH3D",
    "scannet": "ScanNet++",
    "sunrgbd": "SUN RGB-D",
    "sun_rgbd": "SUN RGB-D",
    "ibims": "iBims-1",
    "nyu": "NYUv2",
    "dtu": "DTU",
    "tartanair": "TA-WB",
    "ta-wb": "TA-WB",
}

# What to know before comparing with a column.
NOTES = {
    (DEPTHLM_BENCH.title, "SUN RGB-D"): "its labels there are 0.8 times the true depths",
    (DEPTHLM_BENCH.title, "NYUv2"): "its labels there are 0.8 times the true depths",
    (DEPTHVLM_SPARSE.title, "NYUv2"): "its truth there is wrong beyond 8.19 m",
}

# Protocol or task -> the tables beside which its scores stand. Protocol plain was never published.
TABLES = {
    "depthlm": (DEPTHLM_BENCH,),
    "depthvlm-sparse": (DEPTHVLM_SPARSE,),
    "dense": (DEPTHVLM_DENSE, DENSE_ABSREL, DENSE_RMSE),
    "objects": (SPATIALRGPT_QUALITATIVE, SPATIALRGPT_QUANTITATIVE, SPATIALRGPT_ABSREL, SPATIALRGPT_DIRECTION),
    "matches": (CORRESPONDENCE,),
    "pose": (POSE,),
}
# What no command of this package measures as it was published.
OTHERS = (DEPTHLM_TASKS, SECONDS, ABLATIONS)
ALL_TABLES = (*(table for tables in TABLES.values() for table in tables), *OTHERS)


def data_set_of(path: Path) -> str:
    """The data set that a path speaks of, as the tables call it; "" if it speaks of none."""
    text = str(path).lower()
    return next((name for word, name in WORDS.items() if word in text), "")


def data_set_named(name: str) -> str:
    """The data set of this name, spelt as in the tables or by a curator. Raises BadInput, naming the known ones."""
    known = {one.lower(): one for one in WORDS.values()}
    found = known.get(name.lower()) or data_set_of(Path(name))
    if not found:
        listed = ", ".join(sorted(known.values()))
        raise BadInput(f"--data-set {name}: no published table has it; known are {listed}.")
    return found

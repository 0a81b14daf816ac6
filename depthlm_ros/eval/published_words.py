"""Published scores of what models say: objects, matches, poses; the marks are explained in published_table.py."""

from __future__ import annotations

from depthlm_ros.eval.published_table import table

SPATIALRGPT_QUALITATIVE = table(
    "SpatialRGPT-Bench",
    "right, %",
    "below-above/left-right/big-small/tall-short/wide-thin/behind-front/qualitative",
    """
    VLM3-4B [N]: 97.84/99.37/90.78/90.82/92.86/75.54/91.35
    SpatialRGPT-8B [N]: 99.17/99.04/79.24/89.28/83.65/87.27/89.80
    Qwen3-VL-4B [N]: 63.33/85.71/85.85/70.54/83.65/60.91/75.00
    Qwen3-VL-32B [N]: 72.50/83.81/82.08/68.75/87.50/67.27/76.98
    """,
)

SPATIALRGPT_QUANTITATIVE = table(
    "SpatialRGPT-Bench",
    "right, %",
    "direct/horizontal/vertical/width/height/direction/quantitative",
    """
    VLM3-4B [N]: 34.09/53.38/58.41/44.11/65.64/95.42/58.51
    SpatialRGPT-8B [N]: 35.1/59.0/53.8/51.9/54.9/95.3/58.33
    Qwen3-VL-4B [N]: -/-/-/-/-/-/11.16
    Qwen3-VL-32B [N]: -/-/-/-/-/-/10.73
    """,
)

SPATIALRGPT_ABSREL = table(
    "SpatialRGPT-Bench",
    "AbsRel",
    "direct/horizontal/vertical/width/height/quantitative",
    """
    VLM3-4B [N]: .37/.29/.27/.39/.41/.35
    SpatialRGPT-8B [N]: .35/.27/.27/.31/.63/.37
    Qwen3-VL-4B [N]: -/-/-/-/-/343.96
    Qwen3-VL-32B [N]: -/-/-/-/-/287.95
    """,
    up=False,
)

SPATIALRGPT_DIRECTION = table(
    "SpatialRGPT-Bench",
    "error, degrees",
    "direction",
    """
    VLM3-4B [N]: 10.5
    SpatialRGPT-8B [N]: 17.1
    """,
    up=False,
)

CORRESPONDENCE = table(
    "VLM3's correspondence table",
    "end-point error",
    "ETH3D/DTU/TA-WB/average",
    """
    VLM3-4B [N]: 15.18/10.71/20.21/15.37
    UFM [N]: 3.83/7.28/12.56/7.89
    RoMa [N]: 10.01/11.84/43.79/21.88
    DKM [N]: 30.83/30.15/61.80/41.30
    Qwen3-VL-4B [N]: 179.80/89.64/190.40/153.28
    Qwen3-VL-32B [N]: 196.53/88.76/195.53/160.27
    """,
    up=False,
    key="epe",
)

POSE = table(
    "VLM3's pose table",
    "AUC@30, %",
    "ETH3D/ScanNet++/average",
    """
    VLM3-4B [N]: 93.3/94.7/94.0
    DA3-Giant [N]: 91.2/98.1/94.7
    VGGT [N]: 80.8/95.1/88.0
    MapAnything [N]: -/-/80.8
    DUSt3R [N]: -/-/30.6
    Qwen3-VL-4B [N]: 10.0/0.7/5.4
    Qwen3-VL-32B [N]: 11.7/3.9/7.8
    """,
    key="auc30",
    scale=100.0,
)

DEPTHLM_TASKS = table(
    "DepthLM's other tasks (the weakest source)",
    "share right",
    "distance of a point/distance of two points/camera motion/mean of six",
    """
    DepthLM-7B [N]: .828/.721/.679/.804
    GPT-5 [N]: -/-/-/.210
    Qwen2.5-VL-7B [N]: -/-/-/.09
    """,
)

# SPDX-License-Identifier: Apache-2.0
"""Published scores, for comparison with one's own: `TABLES` by protocol or task, and `ALL_TABLES`.

`guess_data_set` and `find_data_set` give the name that a data set has in the tables.

Marks of rows: F official table, N quoted by third parties from the paper, A an independent repetition. A row has one
value per column, "-" where none was published. Where a source's average is not the mean of its row, the average is
that of the source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from depthlm_ros.errors import BadInput


@dataclass(frozen=True)
class PublishedTable:
    """A published table.

    score: what the columns hold, in the units of the paper. up: whether larger is better. key: key of the score in the
    JSON of a run, "" for scores by category. scale: factor from the JSON to the units of the paper. averaged: for each
    column that holds an average, the columns that it averages.
    """

    title: str
    score: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    up: bool = True
    key: str = ""
    scale: float = 1.0
    averaged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str) -> dict[str, float]:
        """Returns the rows that have a value in a column, the best first; empty if there is no such column."""
        if name not in self.columns:
            return {}
        index = self.columns.index(name)
        values = {row: numbers[index] for row, numbers in self.rows.items() if math.isfinite(numbers[index])}
        return dict(sorted(values.items(), key=lambda item: -item[1] if self.up else item[1]))


def parse_table(
    title: str,
    score: str,
    columns: str,
    text: str,
    *,
    up: bool = True,
    key: str = "",
    scale: float = 1.0,
    averaged: Mapping[str, str] | None = None,
) -> PublishedTable:
    """Returns a table from columns "a/b/c" and lines "row: 1/2/-".

    averaged: for each average the columns "a/b" that it averages; if None, "average" averages all other columns. Raises
    ValueError for a row with another number of values.
    """
    names = tuple(columns.split("/"))
    rows = {}
    for line in text.strip().splitlines():
        row, values = line.strip().split(": ")
        numbers = tuple(math.nan if value == "-" else float(value) for value in values.split("/"))
        if len(numbers) != len(names):
            raise ValueError(f"{title}, row {row}: {len(numbers)} values for {len(names)} columns.")
        rows[row] = numbers
    means = {name: tuple(parts.split("/")) for name, parts in (averaged or {}).items()}
    if averaged is None and "average" in names:
        means["average"] = tuple(name for name in names if name != "average")
    return PublishedTable(title, score, names, rows, up, key, scale, means)


NINE = "Argoverse2/Waymo/DDAD/nuScenes/ETH3D/ScanNet++/SUN RGB-D/iBims-1/NYUv2"
FIVE = "Waymo/nuScenes/ETH3D/SUN RGB-D/iBims-1"

DEPTHLM_BENCH = parse_table(
    "DepthLMBench",
    "delta1",
    "Argoverse2/DDAD/nuScenes/ETH3D/ScanNet++/SUN RGB-D/iBims-1/NYUv2/average",
    """
    constant 2 m [F]: .006/.010/.010/.106/.305/.384/.280/.383/.186
    Qwen2.5-VL-3B [F]: .133/.083/.090/.087/.120/.134/.080/.128/.106
    Qwen2.5-VL-7B [F]: .077/.120/.070/.126/.135/.089/.160/.168/.118
    Qwen2.5-VL-72B [F]: .119/.140/.186/.220/.272/.276/.212/.324/.219
    Qwen3-VL-4B [N]: .004/.073/.070/.071/.147/.176/.080/.158/.101
    Qwen3-VL-32B [N]: .017/.099/.029/.167/.373/.463/.122/.393/.208
    Molmo-7B-D [F]: .200/.132/.200/.126/.244/.299/.200/.225/.203
    Pixtral-12B [F]: .157/.132/.118/.141/.318/.308/.270/.145/.199
    Gemini-2.5-Pro [F]: .280/.252/.365/.328/.380/.270/.466/.394/.342
    GPT-o3 [F]: .208/.283/.309/.305/.375/.426/.375/.470/.344
    GPT-5 [F]: .218/.302/.382/.313/.428/.471/.307/.540/.370
    SpaceLLaVA-13B [F]: .100/.067/.083/.090/.269/.233/.208/.178/.154
    SpatialRGPT-8B [F]: .055/.046/.100/.220/.346/.369/.240/.265/.205
    Seed1.5-VL, official prompt [F]: .009/.012/.013/.219/.495/.321/.459/.412/.243
    Seed1.5-VL, their prompt [F]: .040/.074/.028/.309/.593/.689/.627/.841/.400
    DepthLM-3B [F]: .808/.724/.870/.745/.838/.850/.890/.868/.824
    DepthLM-7B [F]: .833/.747/.865/.718/.850/.859/.920/.915/.838
    DepthLM-Pixtral-12B [F]: .734/.670/.819/.653/.834/.786/.870/.799/.771
    VLM3-4B [N]: .896/.818/.970/.810/.976/.867/.960/.935/.904
    DepthLM-12B, repeated [A]: -/.680/.823/-/-/-/-/-/-
    ZoeDepth [F]: -/.272/.283/.350/-/.867/.580/-/-
    DepthAnything [F]: -/-/.354/.093/-/.850/.714/-/-
    DepthAnythingV2 [F]: -/-/.171/.363/-/.724/-/-/-
    Metric3D [F]: -/-/.723/.456/-/.154/.797/-/-
    UniDepth [F]: -/.858/.846/.185/-/.943/.157/-/-
    DepthPro [F]: -/.299/.566/.397/-/.831/.823/-/-
    Metric3Dv2 [F]: -/-/.841/.900/-/.812/.684/-/-
    UniDepthV2 [F]: -/.882/.870/.852/-/.964/.945/-/-
    MoGe-2 [N]: -/.856/-/.908/-/-/.924/-/-
    """,
    key="delta1",
)

DEPTHVLM_SPARSE = parse_table(
    "DepthVLM-Bench, sparse",
    "delta1",
    "Argoverse2/Waymo/DDAD/nuScenes/ETH3D/ScanNet++/SUN RGB-D/iBims-1/NYUv2/average/average of five",
    """
    constant 2 m [F]: .002/.004/.002/.010/.112/.261/.380/.269/.373/.157/-
    GPT-4o [F]: .141/.139/.193/.174/.296/.369/.358/.393/.394/.273/-
    GPT-5.5 [F]: .378/.368/.304/.276/.369/.432/.527/.483/.525/.407/-
    Qwen3-VL-4B [F]: .033/.006/.086/.040/.085/.208/.220/.037/.155/.097/-
    Qwen3-VL-8B [F]: .119/.061/.243/.118/.175/.274/.286/.081/.194/.172/-
    Qwen3-VL-32B [F]: .029/.017/.138/.049/.150/.434/.536/.105/.435/.210/-
    InternVL3.5-8B [F]: .139/.110/.177/.111/.185/.395/.459/.214/.431/.247/-
    InternVL3.5-14B [F]: .086/.045/.128/.084/.183/.390/.440/.235/.445/.226/-
    InternVL3.5-38B [F]: .131/.129/.219/.110/.181/.400/.431/.155/.423/.242/-
    SpaceLLaVA-13B [F]: .006/.002/.001/.006/.107/.050/.044/.172/.087/.053/-
    SpatialRGPT-8B [F]: .045/.064/.096/.116/.133/.124/.084/.044/.070/.086/-
    Cambrian-S-7B [F]: .006/.019/.038/.033/.069/.145/.073/.057/.063/.056/-
    Youtu-VL-4B [F]: .663/.473/.342/.698/.286/.522/.734/.856/.849/.603/-
    DepthLM-12B [F]: .761/.588/.654/.736/.666/.756/.785/.754/.866/.730/-
    DepthVLM-4B [F]: .810/.879/.818/.821/.924/.861/.882/.912/.908/.868/.884
    DepthVLM-8B [F]: .798/.865/.813/.831/.928/.901/.889/.936/.920/.876/.890
    ZoeDepth [F]: -/.639/-/.196/.345/-/.769/.718/-/-/.533
    DepthPro [F]: -/.255/-/.389/.355/-/.852/.880/-/-/.546
    Metric3D [F]: -/.879/-/.721/.373/-/.222/.796/-/-/.598
    Metric3Dv2 [F]: -/.923/-/.747/.851/-/.813/.726/-/-/.812
    UniDepth [F]: -/.670/-/.858/.149/-/.907/.158/-/-/.548
    UniDepthV2 [F]: -/.730/-/.872/.657/-/.911/.941/-/-/.823
    DepthAnything [F]: -/.739/-/.205/.277/-/.847/.854/-/-/.584
    DepthAnythingV2 [F]: -/.715/-/.168/.111/-/.697/.887/-/-/.516
    DepthAnythingV3 [F]: -/.885/-/.790/.843/-/.913/.955/-/-/.877
    """,
    key="delta1",
    averaged={"average": NINE, "average of five": FIVE},
)

DEPTHVLM_DENSE = parse_table(
    "DepthVLM-Bench, dense",
    "delta1",
    "Waymo/nuScenes/ETH3D/SUN RGB-D/iBims-1/average/NYUv2",
    """
    ZoeDepth [F]: .634/.195/.350/.770/.717/.533/-
    DepthPro [F]: .251/.379/.365/.847/.879/.544/-
    Metric3D [F]: .878/.719/.409/.211/.794/.602/-
    Metric3Dv2 [F]: .926/.843/.865/.909/.724/.853/-
    UniDepth [F]: .683/.846/.145/.900/.159/.547/-
    UniDepthV2 [F]: .733/.868/.660/.912/.941/.823/-
    DepthAnything [F]: .749/.195/.290/.843/.856/.587/-
    DepthAnythingV2 [F]: .724/.165/.093/.674/.887/.509/-
    DepthAnythingV3 [F]: .889/.788/.822/.911/.957/.873/-
    DepthVLM-4B [F]: .902/.838/.963/.885/.910/.900/-
    DepthVLM-8B [F]: .884/.837/.959/.890/.939/.902/-
    DepthVLM-4B, repeated with the Kinect's truth [A]: -/-/-/-/-/-/.943
    """,
    key="delta1",
    averaged={"average": FIVE},
)

DENSE_ABSREL = parse_table(
    "DepthVLM-Bench, dense",
    "AbsRel",
    "NYUv2",
    "DepthVLM-4B, repeated with the Kinect's truth [A]: .081",
    up=False,
    key="absrel",
)

DENSE_RMSE = parse_table(
    "DepthVLM-Bench, dense",
    "RMSE, m",
    "NYUv2",
    "DepthVLM-4B, repeated with the Kinect's truth [A]: .476",
    up=False,
    key="rmse",
)

EIGEN_DELTA1 = parse_table(
    "Eigen's test splits, BTS's rules",
    "delta1",
    "NYUv2/KITTI",
    """
    DepthVLM-4B, repeated [A]: .934/.915
    Metric3Dv2 ViT-L, repeated [A]: .976/.979
    """,
    key="delta1",
)

EIGEN_ABSREL = parse_table(
    "Eigen's test splits, BTS's rules",
    "AbsRel",
    "NYUv2/KITTI",
    """
    DepthVLM-4B, repeated [A]: .0893/.0888
    Metric3Dv2 ViT-L, repeated [A]: .0627/.0482
    """,
    up=False,
    key="absrel_image_mean",
)

EIGEN_RMSE = parse_table(
    "Eigen's test splits, BTS's rules",
    "RMSE, m",
    "NYUv2/KITTI",
    """
    DepthVLM-4B, repeated [A]: .353/3.461
    Metric3Dv2 ViT-L, repeated [A]: .246/2.184
    """,
    up=False,
    key="rmse_image_mean",
)

SECONDS = parse_table(
    "DepthVLM's comparison",
    "seconds for an image of 256 x 192",
    "all pixels",
    """
    DepthLM, pixel by pixel [F]: 46800
    Youtu-VL-4B [F]: 2.48
    DepthVLM-4B [F]: .42
    """,
    up=False,
)

ABLATIONS = parse_table(
    "VLM3's ablations",
    "delta1, average",
    "DepthLMBench",
    """
    marker in the image [N]: .849
    coordinates as text [N]: .853
    weights uniform [N]: .842
    weights by size [N]: .884
    weights tuned [N]: .904
    8B [N]: .880
    32B [N]: .873
    4B, 64M samples [N]: .880
    """,
)

SPATIALRGPT_QUALITATIVE = parse_table(
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

SPATIALRGPT_QUANTITATIVE = parse_table(
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

SPATIALRGPT_ABSREL = parse_table(
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

SPATIALRGPT_DIRECTION = parse_table(
    "SpatialRGPT-Bench",
    "error, degrees",
    "direction",
    """
    VLM3-4B [N]: 10.5
    SpatialRGPT-8B [N]: 17.1
    """,
    up=False,
)

CORRESPONDENCE = parse_table(
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

POSE = parse_table(
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

DEPTHLM_TASKS = parse_table(
    "DepthLM's other tasks (the weakest source)",
    "share right",
    "distance of a point/distance of two points/camera motion/mean of six",
    """
    DepthLM-7B [N]: .828/.721/.679/.804
    GPT-5 [N]: -/-/-/.210
    Qwen2.5-VL-7B [N]: -/-/-/.09
    """,
)

OBJECT_BENCH = SPATIALRGPT_QUALITATIVE.title

# Word in the path of the labels -> data set. The first word that fits counts, so more specific words come first.
DATA_SET_WORDS = {
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
    "kitti": "KITTI",
    "dtu": "DTU",
    "tartanair": "TA-WB",
    "ta-wb": "TA-WB",
}

# (table, column) -> what one has to know before comparing with the column.
NOTES = {
    (DEPTHLM_BENCH.title, "SUN RGB-D"): "its labels there are 0.8 times the true depths",
    (DEPTHLM_BENCH.title, "NYUv2"): "its labels there are 0.8 times the true depths",
    (DEPTHVLM_SPARSE.title, "NYUv2"): "its truth there is wrong beyond 8.19 m",
}

# Protocol or task -> tables with comparable scores. Nothing was published for protocol plain.
TABLES = {
    "depthlm": (DEPTHLM_BENCH,),
    "depthvlm-sparse": (DEPTHVLM_SPARSE,),
    "dense": (DEPTHVLM_DENSE, DENSE_ABSREL, DENSE_RMSE),
    "nyu-eigen": (EIGEN_DELTA1, EIGEN_ABSREL, EIGEN_RMSE),
    "kitti-eigen": (EIGEN_DELTA1, EIGEN_ABSREL, EIGEN_RMSE),
    "objects": (SPATIALRGPT_QUALITATIVE, SPATIALRGPT_QUANTITATIVE, SPATIALRGPT_ABSREL, SPATIALRGPT_DIRECTION),
    "matches": (CORRESPONDENCE,),
    "pose": (POSE,),
}
# No command of this package measures these scores as they were published.
OTHER_TABLES = (DEPTHLM_TASKS, SECONDS, ABLATIONS)
# Two protocols share tables; a table is told by its title, score and columns.
ALL_TABLES = tuple(
    {
        (table.title, table.score, table.columns): table
        for table in (*(table for tables in TABLES.values() for table in tables), *OTHER_TABLES)
    }.values()
)


def guess_data_set(path: Path) -> str:
    """Returns the data set that a path names, as the tables call it; "" if it names none."""
    text = str(path).lower()
    return next((name for word, name in DATA_SET_WORDS.items() if word in text), "")


def find_data_set(name: str) -> str:
    """Returns the tables' name of a data set, from a name as in the tables or as `depthlm data curate` has it.

    Raises BadInput for an unknown name, and lists the known ones.
    """
    known = {one.lower(): one for one in DATA_SET_WORDS.values()}
    data_set = known.get(name.lower()) or guess_data_set(Path(name))
    if not data_set:
        raise BadInput(f"--data-set {name}: no published table has it; known are {', '.join(sorted(known.values()))}.")
    return data_set

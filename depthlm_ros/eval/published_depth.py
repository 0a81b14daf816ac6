"""Published scores of depth; the marks are explained in published_table.py."""

from __future__ import annotations

from depthlm_ros.eval.published_table import table

NINE = "Argoverse2/Waymo/DDAD/nuScenes/ETH3D/ScanNet++/SUN RGB-D/iBims-1/NYUv2"
FIVE = "Waymo/nuScenes/ETH3D/SUN RGB-D/iBims-1"

DEPTHLM_BENCH = table(
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

DEPTHVLM_SPARSE = table(
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

DEPTHVLM_DENSE = table(
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

DENSE_ABSREL = table(
    "DepthVLM-Bench, dense",
    "AbsRel",
    "NYUv2",
    "DepthVLM-4B, repeated with the Kinect's truth [A]: .081",
    up=False,
    key="absrel",
)

DENSE_RMSE = table(
    "DepthVLM-Bench, dense",
    "RMSE, m",
    "NYUv2",
    "DepthVLM-4B, repeated with the Kinect's truth [A]: .476",
    up=False,
    key="rmse",
)

SECONDS = table(
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

ABLATIONS = table(
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

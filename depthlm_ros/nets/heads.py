"""Depth heads as DepthVLM releases them: which one a checkpoint has, its sizes, and the names of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from depthlm_ros.errors import BadBundle
from depthlm_ros.nets.dpt import DptConfig, DptHead
from depthlm_ros.nets.mlp_head import FEATURES, MlpConfig, MlpHead

PREFIX = "depth_head."

# Released name -> name in DptHead, as prefixes.
DPT_NAMES = {
    "norm.": "norm.",
    **{f"projects.{i}.": f"projects.{i}." for i in range(4)},
    **{f"resize_layers.{i}.": f"upsamples.{i}." for i in range(3)},
    **{f"scratch.layer{i + 1}_rn.": f"adapters.{i}." for i in range(4)},
    **{f"scratch.refinenet{i + 1}.resConfUnit1.": f"fusions.{i}.skip_unit." for i in range(3)},
    **{f"scratch.refinenet{i + 1}.resConfUnit2.": f"fusions.{i}.unit." for i in range(4)},
    **{f"scratch.refinenet{i + 1}.out_conv.": f"fusions.{i}.out_conv." for i in range(4)},
    "scratch.output_conv1.": "out_conv1.",
    "scratch.output_conv2.0.": "out_conv2.",
    "scratch.output_conv2.2.": "out_conv3.",
}

Shapes = Mapping[str, tuple[int, ...]]


def released_head(
    kind: str, shapes: Shapes, facts: Mapping[str, Any], in_channels: int, pixels_per_token: int
) -> nn.Module | None:
    """The head `kind` ("dpt", "mlp", "" for none), as wide as the file's tensors say.

    shapes: of all tensors of the checkpoint, by released name; facts: config.json. Raises BadBundle if the checkpoint
    has another head than `kind`, or none, or one where none was expected.
    """
    found = {name.removeprefix(PREFIX): shape for name, shape in shapes.items() if name.startswith(PREFIX)}
    has = "" if not found else "mlp" if "mlp.0.weight" in found else "dpt"
    if has != kind:
        words = {"": "no depth head", "dpt": "a DPT depth head", "mlp": "an MLP depth head"}
        raise BadBundle(
            f"the checkpoint has {words[has]}, but its YAML says {words.get(kind, repr(kind))} (head: {kind!r}): "
            f"take the checkpoint that the YAML names, or set head: {has!r}."
        )
    if kind == "":
        return None
    try:
        if kind == "dpt":
            return _dpt(found, in_channels, pixels_per_token)
        return _mlp(found, facts, in_channels, pixels_per_token)
    except KeyError as exc:
        raise BadBundle(f"the depth head lacks tensor {PREFIX}{exc.args[0]}: get the checkpoint again.") from exc


def released_name(head: nn.Module, name: str) -> str:
    """Released name of a parameter of the head; the MLP head's names are the released ones."""
    if not isinstance(head, DptHead):
        return PREFIX + name
    for released, ours in DPT_NAMES.items():
        if name.startswith(ours):
            return PREFIX + released + name.removeprefix(ours)
    raise KeyError(name)


def _dpt(shapes: Shapes, in_channels: int, pixels_per_token: int) -> DptHead:
    first, second, third, fourth = (shapes[f"projects.{i}.weight"][0] for i in range(4))
    return DptHead(
        DptConfig(
            in_channels,
            projected=(first, second, third, fourth),
            features=shapes["scratch.layer1_rn.weight"][0],
            pixels_per_token=pixels_per_token,
            narrow=shapes["scratch.output_conv2.0.weight"][0],
        )
    )


def _mlp(shapes: Shapes, facts: Mapping[str, Any], in_channels: int, pixels_per_token: int) -> MlpHead:
    features = facts.get("depth_head_feature_mode", "llm_last")
    if features not in FEATURES:
        raise BadBundle(f"config.json: depth_head_feature_mode is {features!r}, not one of {', '.join(FEATURES)}.")
    hidden = int(facts.get("depth_head_mlp_hidden", shapes["mlp.0.weight"][0]))
    return MlpHead(MlpConfig(in_channels, hidden, features, pixels_per_token))

"""Which plans a bundle needs, and the sizes of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from depthlm_ros.engine.rewrites import cast_bytes_first, choose_tokens, depth_only
from depthlm_ros.errors import BadBundle
from depthlm_ros.model_files.bundle import Bundle

# Name of an input whose size varies -> its least, usual and largest shape.
Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Limits:
    """Largest sizes of text behind a look; scratch memory is reserved for them. rows: questions at once; tokens: of a
    question; slots: of a question and its answer; watched: tokens whose probabilities are asked for."""

    rows: int = 16
    tokens: int = 384
    slots: int = 512
    watched: int = 64


@dataclass(frozen=True)
class PlanOrder:
    """A graph to be built. profiles: one per way of using it; none for a graph of fixed shapes. workspace_bytes: what
    the builder may try tactics in. prepare: what is done to the graph first."""

    graph: Path
    plan: Path
    precision: str
    workspace_bytes: int
    profiles: tuple[Shapes, ...] = ()
    optimization_level: int = 3
    prepare: tuple[Callable[[onnx.ModelProto], None], ...] = ()


def plan_orders(
    bundle: Bundle,
    folder: Path,
    precision: str,
    workspace_bytes: int,
    limits: Limits = Limits(),
    only_depth: bool = False,
) -> list[PlanOrder]:
    """The plans of a bundle: one look for each canvas and, unless it is for depth only, one for two images of each, if
    the model compares images, and one step."""
    counts = (1, 2) if bundle.pairs and not only_depth else (1,)
    looks = [bundle.look_path(size_px, count) for count in counts for size_px in bundle.canvases_px]
    changes = (cast_bytes_first, depth_only) if only_depth else (cast_bytes_first,)
    orders = [PlanOrder(path, _plan(folder, path), precision, workspace_bytes, prepare=changes) for path in looks]
    if only_depth:
        return orders
    step = bundle.step_path
    profiles = step_profiles(step, [_prefix_length(path) for path in looks], limits)
    return [
        *orders,
        PlanOrder(step, _plan(folder, step), precision, workspace_bytes, profiles, prepare=(choose_tokens,)),
    ]


def step_profiles(step: Path, prefixes: list[int], limits: Limits) -> tuple[Shapes, Shapes]:
    """Sizes for any text, and for one token at a time. prefixes: lengths of the looks' prefixes."""
    usual_rows = min(8, limits.rows)
    text = {
        "n": (1, usual_rows, limits.rows),
        "t": (1, min(32, limits.tokens), limits.tokens),
        "p": (min(prefixes), max(prefixes), max(prefixes)),
        "s": (1, 1, limits.slots),
        "w": (1, min(16, limits.watched), limits.watched),
    }
    decode = text | {"t": (1, 1, 1), "s": (1, min(64, limits.slots), limits.slots)}
    model = onnx.load(step, load_external_data=False)
    choose_tokens(model)
    return _shapes(model, text, step), _shapes(model, decode, step)


def _shapes(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, int, int]], path: Path) -> Shapes:
    """For every input with a named dimension."""
    found = {}
    for value in model.graph.input:
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        names = [dim for dim in dims if isinstance(dim, str)]
        if unknown := [name for name in names if name not in sizes]:
            raise BadBundle(
                f"{path}: input {value.name} has the unknown dimension {unknown[0]}: export the model again."
            )
        if names:
            least, usual, most = (tuple(sizes[d][i] if isinstance(d, str) else d for d in dims) for i in range(3))
            found[value.name] = (least, usual, most)
    return found


def _prefix_length(look: Path) -> int:
    """Tokens of a look's prefix: keys are (layers, B, heads_kv, P, D)."""
    outputs = {output.name: output for output in onnx.load(look, load_external_data=False).graph.output}
    if "keys" not in outputs:
        raise BadBundle(f"{look} gives no keys, so nothing can be asked: build it with --depth-only.")
    return int(outputs["keys"].type.tensor_type.shape.dim[3].dim_value)


def _plan(folder: Path, graph: Path) -> Path:
    return folder / graph.with_suffix(".plan").name

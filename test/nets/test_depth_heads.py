# SPDX-License-Identifier: Apache-2.0
"""DepthVLM's heads: the released weights load, and the depth equals that of the published structure."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.released_heads import GRID, WIDTH, published_dpt, random_tensors, released_dpt, released_mlp  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from depthlm_ros.errors import BadBundle  # noqa: E402
from depthlm_ros.nets.depth_heads import build_released_head, released_parameter_name  # noqa: E402

pytestmark = pytest.mark.torch


def loaded(head, tensors):
    """Loads all released tensors into the head."""
    names = {name: released_parameter_name(head, name) for name in head.state_dict()}
    assert sorted(names.values()) == sorted(tensors)
    head.load_state_dict({name: tensors[released] for name, released in names.items()})
    return head.eval()


def token_features(batch=2):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, GRID[0] * GRID[1], WIDTH, generator=generator) for _ in range(4)]


def test_released_dpt_head_gives_the_published_depth():
    shapes = released_dpt()
    tensors = random_tensors(shapes)
    head = loaded(build_released_head("dpt", shapes, {}, WIDTH, 32), tensors)
    with torch.no_grad():
        depth_m = head(token_features(), GRID)
        expected = published_dpt(tensors, token_features(), GRID)
    assert depth_m.shape == (2, 32 * GRID[0], 32 * GRID[1])
    assert expected.std() > 0.05
    torch.testing.assert_close(depth_m, expected, rtol=1e-4, atol=1e-4)


def test_released_sizes_are_those_of_depthvlm():
    """4B: 2560 input channels, 256/512/1024/1024 projected, 256 fused, 32 at the end."""
    shapes = released_dpt((256, 512, 1024, 1024), 256, 32, 2560)
    with torch.device("meta"):
        head = build_released_head("dpt", shapes, {}, 2560, 32)
    for name, tensor in head.state_dict().items():
        assert tuple(tensor.shape) == shapes[released_parameter_name(head, name)]


@pytest.mark.parametrize("mode", ["llm_last", "concat", "sum"])
def test_released_mlp_head_gives_the_published_depth(mode):
    shapes = released_mlp(mode)
    tensors = random_tensors(shapes)
    facts = {"depth_head_type": "mlp", "depth_head_feature_mode": mode, "depth_head_mlp_hidden": 20}
    head = loaded(build_released_head("mlp", shapes, facts, WIDTH, 32), tensors)
    features = token_features()
    x = {"llm_last": features[3], "concat": torch.cat(features, -1), "sum": sum(features)}[mode]
    w = {name.removeprefix("depth_head."): tensor for name, tensor in tensors.items()}
    x = F.layer_norm(x, (x.shape[-1],), w["norm.weight"], w["norm.bias"])
    x = F.linear(F.gelu(F.linear(x, w["mlp.0.weight"], w["mlp.0.bias"])), w["mlp.2.weight"], w["mlp.2.bias"])
    with torch.no_grad():
        depth_m = head(features, GRID)
    for row, column in ((0, 0), (1, 3), (2, 4)):
        patch = F.softplus(x[:, row * GRID[1] + column]).reshape(-1, 32, 32)
        at = (slice(None), slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32))
        torch.testing.assert_close(depth_m[at], patch, rtol=1e-4, atol=1e-5)


def test_head_in_float32_reads_features_in_bfloat16():
    shapes = released_dpt()
    head = loaded(build_released_head("dpt", shapes, {}, WIDTH, 32), random_tensors(shapes))
    with torch.no_grad():
        assert head([tokens.bfloat16() for tokens in token_features()], GRID).dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "shapes", "message"),
    [
        ("", released_dpt(), "has a DPT depth head, but its YAML says no depth head"),
        ("dpt", {}, "has no depth head, but its YAML says a DPT depth head"),
        ("dpt", released_mlp("sum"), "has an MLP depth head, but its YAML says a DPT"),
        ("dpt", {"depth_head.norm.weight": (24,)}, "lacks tensor depth_head.projects.0.weight"),
    ],
)
def test_head_that_differs_from_the_yaml_is_refused(kind, shapes, message):
    with pytest.raises(BadBundle, match=message):
        build_released_head(kind, shapes, {}, WIDTH, 32)

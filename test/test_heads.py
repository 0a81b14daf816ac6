"""DepthVLM's heads: the released layout of weights loads, and the depth is what the published structure gives."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.nn import functional as F  # noqa: E402

from depthlm_ros.errors import BadBundle  # noqa: E402
from depthlm_ros.nets.depth_heads import released_head, released_name  # noqa: E402

pytestmark = pytest.mark.torch
WIDTH = 24  # of the language model
GRID = (3, 5)


def released_dpt(projected=(8, 12, 16, 20), features=16, narrow=32, width=WIDTH):
    """Names and shapes of DepthVLM's DPT head as its state dict lists them."""
    shapes = {"norm.weight": (width,), "norm.bias": (width,)}
    for i, channels in enumerate(projected):
        shapes |= {f"projects.{i}.weight": (channels, width, 1, 1), f"projects.{i}.bias": (channels,)}
        shapes[f"scratch.layer{i + 1}_rn.weight"] = (features, channels, 3, 3)
    for i, factor in enumerate((8, 4, 2)):
        channels = projected[i]
        shapes |= {
            f"resize_layers.{i}.weight": (channels, channels, factor, factor),
            f"resize_layers.{i}.bias": (channels,),
        }
    for level in (1, 2, 3, 4):
        block = f"scratch.refinenet{level}"
        shapes |= {f"{block}.out_conv.weight": (features, features, 1, 1), f"{block}.out_conv.bias": (features,)}
        for unit in ("resConfUnit1", "resConfUnit2") if level < 4 else ("resConfUnit2",):
            for conv in ("conv1", "conv2"):
                shapes[f"{block}.{unit}.{conv}.weight"] = (features, features, 3, 3)
                shapes[f"{block}.{unit}.{conv}.bias"] = (features,)
    shapes |= {
        "scratch.output_conv1.weight": (features // 2, features, 3, 3),
        "scratch.output_conv1.bias": (features // 2,),
        "scratch.output_conv2.0.weight": (narrow, features // 2, 3, 3),
        "scratch.output_conv2.0.bias": (narrow,),
        "scratch.output_conv2.2.weight": (1, narrow, 1, 1),
        "scratch.output_conv2.2.bias": (1,),
    }
    return {f"depth_head.{name}": shape for name, shape in shapes.items()}


def released_mlp(mode, hidden=20, side=32, width=WIDTH):
    read = 4 * width if mode == "concat" else width
    shapes = {
        "norm.weight": (read,),
        "norm.bias": (read,),
        "mlp.0.weight": (hidden, read),
        "mlp.0.bias": (hidden,),
        "mlp.2.weight": (side * side, hidden),
        "mlp.2.bias": (side * side,),
    }
    return {f"depth_head.{name}": shape for name, shape in shapes.items()}


def random_tensors(shapes):
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(shape, generator=generator) * 0.15 for name, shape in shapes.items()}


def loaded(head, tensors):
    """The head with the released tensors, every one of them."""
    names = {name: released_name(head, name) for name in head.state_dict()}
    assert sorted(names.values()) == sorted(tensors)
    head.load_state_dict({name: tensors[released] for name, released in names.items()})
    return head.eval()


def token_features(batch=2):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, GRID[0] * GRID[1], WIDTH, generator=generator) for _ in range(4)]


def published_dpt(tensors, features, grid):
    """The published head, step by step on its own tensors."""
    w = {name.removeprefix("depth_head."): tensor for name, tensor in tensors.items()}

    def conv(x, name, **kwargs):
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **kwargs)

    def unit(x, name):
        x.relu_()  # in place: the residual below is the rectified x
        return conv(conv(x, f"{name}.conv1", padding=1).relu_(), f"{name}.conv2", padding=1) + x

    def fuse(x, level, skip, size):
        block = f"scratch.refinenet{level}"
        if skip is not None:
            x = x + unit(skip, f"{block}.resConfUnit1")
        x = unit(x, f"{block}.resConfUnit2")
        return conv(F.interpolate(x, size=size, mode="bilinear", align_corners=True), f"{block}.out_conv")

    maps = []
    for i, tokens in enumerate(features):
        x = F.layer_norm(tokens, (tokens.shape[-1],), w["norm.weight"], w["norm.bias"])
        x = conv(x.transpose(1, 2).reshape(len(x), -1, *grid), f"projects.{i}")
        if i < 3:
            factor = (8, 4, 2)[i]
            x = F.conv_transpose2d(x, w[f"resize_layers.{i}.weight"], w[f"resize_layers.{i}.bias"], stride=factor)
        maps.append(conv(x, f"scratch.layer{i + 1}_rn", padding=1))
    rows, columns = grid
    x = fuse(maps[3], 4, None, (2 * rows, 2 * columns))
    x = fuse(x, 3, maps[2], (4 * rows, 4 * columns))
    x = fuse(x, 2, maps[1], (8 * rows, 8 * columns))
    x = fuse(x, 1, maps[0], (16 * rows, 16 * columns))
    x = conv(x, "scratch.output_conv1", padding=1)
    x = F.interpolate(x, size=(32 * rows, 32 * columns), mode="bilinear", align_corners=True)
    x = conv(conv(x, "scratch.output_conv2.0", padding=1).relu_(), "scratch.output_conv2.2")
    return F.softplus(x)[:, 0]


def test_the_released_dpt_head_gives_the_published_depth():
    shapes = released_dpt()
    tensors = random_tensors(shapes)
    head = loaded(released_head("dpt", shapes, {}, WIDTH, 32), tensors)
    with torch.no_grad():
        depth_m = head(token_features(), GRID)
        expected = published_dpt(tensors, token_features(), GRID)
    assert depth_m.shape == (2, 32 * GRID[0], 32 * GRID[1])
    assert expected.std() > 0.05
    torch.testing.assert_close(depth_m, expected, rtol=1e-4, atol=1e-4)


def test_the_released_sizes_are_depthvlms():
    """4B: 2560 channels in, 256/512/1024/1024 projected, 256 fused, 32 at the end."""
    shapes = released_dpt((256, 512, 1024, 1024), 256, 32, 2560)
    with torch.device("meta"):
        head = released_head("dpt", shapes, {}, 2560, 32)
    for name, tensor in head.state_dict().items():
        assert tuple(tensor.shape) == shapes[released_name(head, name)]


@pytest.mark.parametrize("mode", ["llm_last", "concat", "sum"])
def test_the_released_mlp_head_gives_the_published_depth(mode):
    shapes = released_mlp(mode)
    tensors = random_tensors(shapes)
    facts = {"depth_head_type": "mlp", "depth_head_feature_mode": mode, "depth_head_mlp_hidden": 20}
    head = loaded(released_head("mlp", shapes, facts, WIDTH, 32), tensors)
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


def test_a_head_in_float32_reads_features_in_bfloat16():
    shapes = released_dpt()
    head = loaded(released_head("dpt", shapes, {}, WIDTH, 32), random_tensors(shapes))
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
def test_another_head_than_the_yaml_says_is_refused(kind, shapes, message):
    with pytest.raises(BadBundle, match=message):
        released_head(kind, shapes, {}, WIDTH, 32)

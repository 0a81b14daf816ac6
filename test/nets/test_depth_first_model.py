# SPDX-License-Identifier: Apache-2.0
"""The embedded architecture: depth first, words from features and depth, and its checkpoint on disk."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.embedded_bundles import SMALL_EMBEDDED, embedded_spec, random_embedded_model  # noqa: E402
from support.random_backbones import random_images  # noqa: E402

from depthlm_ros.errors import BadBundle  # noqa: E402
from depthlm_ros.nets.depth_first import load_checkpoint, save_checkpoint  # noqa: E402
from depthlm_ros.nets.graphs import DepthLookGraph, ReadGraph  # noqa: E402

pytestmark = pytest.mark.torch
SIZE_PX = (96, 64)
BEFORE, AFTER = [7, 8, 9], [10, 11]


@pytest.fixture(scope="module")
def model():
    return random_embedded_model()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(model, folder)
    return folder


def look(model, image):
    with torch.no_grad():
        return DepthLookGraph(model)(image)


def read(model, seen):
    """Returns the keys and values of an image, given as `look` gives it."""
    depth_m, relative_std, features = seen
    with torch.no_grad():
        return ReadGraph(model, (BEFORE, AFTER), (SIZE_PX,))(features, depth_m, relative_std)


def test_look_gives_depth_and_its_deviation_at_every_pixel_and_features_of_every_token(model):
    first, second = random_images((SIZE_PX, SIZE_PX), batch=2)
    depth_m, relative_std, features = look(model, first)
    assert depth_m.shape == relative_std.shape == (2, 64, 96)
    assert features.shape == (2, *model.empty_features(SIZE_PX).shape[1:]) and features.shape[2:] == (4, 6)
    assert (depth_m > 0).all() and (relative_std > 0).all()
    other_m = look(model, second)[0]
    assert ((other_m - depth_m).abs() / depth_m).mean() > 0.01


def test_images_of_a_batch_are_seen_and_read_as_if_alone(model):
    (images,) = random_images((SIZE_PX,), batch=2)
    together = look(model, images)
    keys, values = read(model, together)
    for index in range(2):
        alone = look(model, images[index : index + 1])
        for left, right in zip(alone, together, strict=True):
            torch.testing.assert_close(left[0], right[index], rtol=1e-3, atol=1e-4)
        for left, right in zip(read(model, alone), (keys, values), strict=True):
            torch.testing.assert_close(left[:, 0], right[:, index], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("changed", [0, 1], ids=["depth", "deviation"])
def test_words_are_read_from_depth_and_deviation_too(model, changed):
    """Also from a map of another network: only the arrays that are read count."""
    (image,) = random_images((SIZE_PX,))
    seen = list(look(model, image))
    keys, values = read(model, seen)
    assert keys.shape == values.shape == (2, 1, 1, len(BEFORE) + 24 + len(AFTER), 24)
    seen[changed] = seen[changed] * 1.5
    other, _ = read(model, seen)
    # Every layer reads the embeddings of the prefix: only those of the image change.
    image_tokens = slice(len(BEFORE), len(BEFORE) + 24)
    for layer in range(2):
        assert (other[layer] - keys[layer])[:, :, image_tokens].abs().max() > 1e-2
    rest = torch.ones(keys.shape[3], dtype=torch.bool)
    rest[image_tokens] = False
    torch.testing.assert_close(other[:, :, :, rest], keys[:, :, :, rest])


def test_canvas_is_a_multiple_of_the_encoders_stride(model):
    assert model.canvas_multiple_px == embedded_spec("any").canvas_multiple_px == 32
    assert model.pixels_per_token == embedded_spec("any").pixels_per_token == 16


def test_checkpoint_is_the_model_rounded_to_half_precision(model, checkpoint):
    loaded = load_checkpoint(checkpoint)
    assert loaded.config == SMALL_EMBEDDED and loaded.pad_id == model.pad_id
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
    (image,) = random_images((SIZE_PX,))
    for left, right in zip(look(loaded.eval(), image), look(model, image), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def damaged(checkpoint, folder, change):
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("depth_first_config"), "holds no complete checkpoint.*name the model"),
        (lambda config: config["depth_first_config"].update(layers=3), "missing.*layers.2"),
        (lambda config: config["depth_first_config"].update(layers=1), "unexpected.*layers.1"),
        (lambda config: config["depth_first_config"].update(width=64), "does not fit config.json"),
        (lambda config: config["depth_first_config"].update(encoder="lite9"), "holds no complete checkpoint.*lite9"),
    ],
)
def test_checkpoint_whose_files_do_not_fit_is_refused(checkpoint, tmp_path, change, message):
    with pytest.raises(BadBundle, match=message):
        load_checkpoint(damaged(checkpoint, tmp_path / "copy", change))


def test_incomplete_checkpoint_is_refused(checkpoint, tmp_path):
    folder = damaged(checkpoint, tmp_path / "copy", lambda config: None)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])
    with pytest.raises(BadBundle, match=r"holds no complete checkpoint.*bytes long"):
        load_checkpoint(folder)

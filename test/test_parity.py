"""The exported graphs say what torch says: look, append and decode, on a freshly exported model and on tiny."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from depthlm_ros.backends.base import StepInput  # noqa: E402
from depthlm_ros.backends.decoding import Query, generate  # noqa: E402
from depthlm_ros.backends.registry import open_backend  # noqa: E402
from depthlm_ros.bundle import find_bundle, load_bundle  # noqa: E402
from depthlm_ros.export.package import BundleFacts, write_bundle  # noqa: E402
from depthlm_ros.families.registry import family_named  # noqa: E402
from depthlm_ros.nets.small import SmallConfig, build  # noqa: E402
from depthlm_ros.train.tokenizer import IMAGE, PAD, train_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch
FAMILY = family_named("tiny")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A random model with another patch size than the embedded one, exported at two canvas sizes."""
    torch.manual_seed(3)
    tokenizer = train_tokenizer(["How far is the red box? It is 2.31 meters away."] * 3, 512)
    config = SmallConfig(
        vocab=512,
        patch_px=16,
        vision_width=48,
        vision_depth=4,
        vision_heads=2,
        deepstack=(0, 1, 3),
        width=48,
        depth=3,
        heads=4,
        heads_kv=2,
        feed_forward=64,
        head_projected=(8, 8, 8, 8),
        head_features=8,
    )
    model = build(config, tokenizer.token_to_id(IMAGE), tokenizer.token_to_id(PAD))
    facts = BundleFacts("fresh", 100.0, ((96, 64), (64, 64)), 0.1, 0.1, "Apache-2.0")
    folder = tmp_path_factory.mktemp("fresh") / "fresh"
    write_bundle(model, tokenizer, FAMILY, facts, folder)
    return load_bundle(folder)


@pytest.fixture(scope="module", params=["fresh", "tiny"])
def pair(request):
    """(onnxruntime, torch, bundle) of one model."""
    bundle = request.getfixturevalue("fresh") if request.param == "fresh" else load_bundle(find_bundle("tiny"))
    return open_backend("onnxruntime", bundle, 1), open_backend("torch", bundle, 1), bundle


def canvas(size_px, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size_px[1], size_px[0], 3), dtype=np.uint8)


def test_look_agrees_at_every_canvas_size(pair):
    ours, reference, bundle = pair
    for size_px in bundle.canvases_px:
        a, b = ours.look(canvas(size_px)), reference.look(canvas(size_px))
        assert a.depth_m.shape == (size_px[1], size_px[0])
        np.testing.assert_allclose(a.depth_m, b.depth_m, rtol=1e-4)
        np.testing.assert_allclose(a.keys, b.keys, atol=1e-3)
        np.testing.assert_allclose(a.values, b.values, atol=1e-3)
        assert a.next_position == b.next_position


def test_append_and_decode_agree(pair):
    ours, reference, bundle = pair
    look = ours.look(canvas(bundle.canvases_px[0], 1))
    rng = np.random.default_rng(2)
    for tokens in (9, 1):
        given = StepInput(
            rng.integers(0, 200, (3, tokens)),
            np.broadcast_to(look.next_position + np.arange(tokens), (3, tokens)).copy(),
            np.array([tokens - 1, tokens // 2, 0]),
            np.repeat(look.keys, 3, 1),
            np.repeat(look.values, 3, 1),
            np.zeros((3, look.keys.shape[3]), np.float32),
        )
        a, b = ours.step(given), reference.step(given)
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(a.keys, b.keys, atol=1e-3)
        np.testing.assert_allclose(a.values, b.values, atol=1e-3)


def test_positions_matter(pair):
    """A graph whose inputs were confused (ids taken for positions) would not notice a shift."""
    ours, _, bundle = pair
    look = ours.look(canvas(bundle.canvases_px[0]))
    mask = np.zeros((1, look.keys.shape[3]), np.float32)
    ids = np.array([[3, 4, 5]])
    logits = [
        ours.step(
            StepInput(ids, look.next_position + shift + np.arange(3)[None], np.array([2]), look.keys, look.values, mask)
        ).logits
        for shift in (0, 40)
    ]
    assert np.abs(logits[0] - logits[1]).max() > 1e-4


def test_replies_are_equal_token_for_token(pair):
    ours, reference, bundle = pair
    stops = np.zeros(2048, bool)
    queries = [Query([5, 6, 7, 8][:n], stops, 10) for n in (4, 2, 3)]
    looks = [backend.look(canvas(bundle.canvases_px[0], 4)) for backend in (ours, reference)]
    a, b = (generate(backend, look, queries) for backend, look in zip((ours, reference), looks, strict=True))
    assert [reply.ids for reply in a] == [reply.ids for reply in b]
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left.log_probability, right.log_probability, atol=1e-3)


def test_all_graphs_share_one_file_of_weights(fresh):
    """The checkpoint holds every weight once; what the graphs keep for themselves is small beside it."""
    weights = (fresh.folder / "model.safetensors").stat().st_size
    graphs = sum(path.stat().st_size for path in fresh.folder.glob("*.onnx"))
    assert not list(fresh.folder.glob("*.data"))
    assert graphs < 1.5e6 + weights

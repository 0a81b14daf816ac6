"""Exported graphs agree with torch: look, append and decode, on a freshly exported model and on tiny."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.random_backbones import SMALL_MODEL  # noqa: E402

from depthlm_ros.backends.base import StepInput  # noqa: E402
from depthlm_ros.backends.generation import Query, generate  # noqa: E402
from depthlm_ros.backends.registry import open_backend  # noqa: E402
from depthlm_ros.export.write_bundle import write_bundle  # noqa: E402
from depthlm_ros.geometry.resize_rules import CanvasRule  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402
from depthlm_ros.model_files.spec import ModelSpec  # noqa: E402
from depthlm_ros.nets.small_model import build_small_model  # noqa: E402
from depthlm_ros.training.synthetic.tokenizer import IMAGE, PAD, train_tokenizer  # noqa: E402

pytestmark = pytest.mark.torch
WATCHED = np.array([3, 7])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Exports a random model at two canvas sizes. Its patch size differs from that of the embedded model."""
    torch.manual_seed(3)
    tokenizer = train_tokenizer(["How far is the red box? It is 2.31 meters away."] * 3, 512)
    config = replace(SMALL_MODEL, patch_px=16, deepstack=(0, 1, 3))
    model = build_small_model(config, tokenizer.token_to_id(IMAGE), tokenizer.token_to_id(PAD))
    canvas = CanvasRule(100.0, ((96, 64), (64, 64)))
    spec = ModelSpec("fresh", "tiny", "qwen3_vl", "qwen", canvas, model.pixels_per_token, head="dpt")
    folder = tmp_path_factory.mktemp("fresh") / "fresh"
    write_bundle(model, tokenizer, spec, folder)
    return load_bundle(folder)


@pytest.fixture(scope="module", params=["fresh", "tiny"])
def pair(request):
    """Returns (backend onnxruntime, backend torch, bundle) of one model."""
    bundle = request.getfixturevalue("fresh") if request.param == "fresh" else load_bundle(find_bundle("tiny"))
    texts = (bundle.before, bundle.between, bundle.after)
    return *(open_backend(name, bundle, texts, 1, "cpu") for name in ("onnxruntime", "torch")), bundle


def canvas(size_px, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1, size_px[1], size_px[0], 3), dtype=np.uint8)


def question(look, ids, last, shift=0):
    """Returns rows of text as the first step after a look."""
    ids = np.asarray(ids)
    positions = np.broadcast_to(look.next_position + shift + np.arange(ids.shape[1]), ids.shape).copy()
    mask = np.full((len(ids), ids.shape[1] + 4), -np.inf, np.float32)
    return StepInput(ids, positions, np.asarray(last), mask, 0, WATCHED)


def test_look_agrees_with_torch_at_every_canvas_size(pair):
    ours, reference, bundle = pair
    for size_px in bundle.canvases_px:
        a, b = ours.look([canvas(size_px)]), reference.look([canvas(size_px)])
        assert a.depth_m.shape == (1, size_px[1], size_px[0])
        np.testing.assert_allclose(a.depth_m, b.depth_m, rtol=1e-4)
        for left, right in zip(a.prefix, b.prefix, strict=True):
            np.testing.assert_allclose(left.numpy(), right, atol=1e-3)
        assert (a.length, a.next_position, a.prompts) == (b.length, b.next_position, b.prompts)


def test_look_at_two_images_agrees_with_torch_and_keeps_the_depth_of_the_first(pair):
    ours, reference, bundle = pair
    if not bundle.pairs:
        pytest.skip("this model was exported for one image")
    for size_px in bundle.canvases_px:
        images = [canvas(size_px, seed) for seed in (1, 2)]
        a, b, alone = ours.look(images), reference.look(images), ours.look(images[:1])
        np.testing.assert_allclose(a.depth_m, b.depth_m, rtol=1e-4)
        np.testing.assert_allclose(a.depth_m, alone.depth_m, rtol=1e-4)
        for left, right in zip(a.prefix, b.prefix, strict=True):
            np.testing.assert_allclose(left.numpy(), right, atol=1e-3)
        assert (a.length, a.next_position) == (b.length, b.next_position)


def test_append_and_decode_agree_with_torch(pair):
    ours, reference, bundle = pair
    rng = np.random.default_rng(2)
    ids, more = rng.integers(0, 200, (3, 9)), rng.integers(0, 200, (3, 1))
    outputs = []
    for backend in (ours, reference):
        look = backend.look([canvas(bundle.canvases_px[0], 1)])
        first = question(look, ids, [8, 4, 0])
        cache = backend.cache(look, 3, first.mask.shape[1])
        mask = first.mask.copy()
        mask[:, :9] = 0.0
        then = StepInput(more, np.full((3, 1), look.next_position + 9), np.zeros(3, np.int64), mask, 9, WATCHED)
        outputs.append([backend.step(cache, text) for text in (first, then)])
    for a, b in zip(*outputs, strict=True):
        assert a.chosen.tolist() == b.chosen.tolist()
        np.testing.assert_allclose(a.log_probability, b.log_probability, atol=1e-3)
        np.testing.assert_allclose(a.watched, b.watched, atol=2e-3)


def test_positions_change_the_result(pair):
    """If the inputs of a graph were mixed up (ids used as positions), a shift would change nothing."""
    ours, _, bundle = pair
    look = ours.look([canvas(bundle.canvases_px[0])])
    outputs = [ours.step(ours.cache(look, 1, 7), question(look, [[3, 4, 5]], [2], shift)).watched for shift in (0, 40)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_replies_agree_with_torch_token_by_token(pair):
    ours, reference, bundle = pair
    stops = np.zeros(2048, bool)
    queries = [Query([5, 6, 7, 8][:n], stops, 10) for n in (4, 2, 3)]
    a, b = (
        generate(backend, backend.look([canvas(bundle.canvases_px[0], 4)]), queries, WATCHED)
        for backend in (ours, reference)
    )
    assert [reply.ids for reply in a] == [reply.ids for reply in b]
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left.log_probability, right.log_probability, atol=1e-3)
        np.testing.assert_allclose(left.watched, right.watched, atol=2e-3)


def test_questions_in_one_batch_get_the_same_replies_as_one_by_one(pair):
    """The questions have different lengths and follow prefixes of their own, which were computed in one batch."""
    _, reference, bundle = pair
    stops = np.zeros(2048, bool)
    queries = [Query([9, 8, 7, 6, 5, 4][:n], stops, 6) for n in (6, 3, 1)]
    images = np.concatenate([canvas(bundle.canvases_px[0], seed) for seed in range(3)])
    together = generate(reference, reference.look([images]), queries, WATCHED)
    for image, query, reply in zip(images, queries, together, strict=True):
        alone = generate(reference, reference.look([image[None]]), [query], WATCHED)[0]
        assert alone.ids == reply.ids
        np.testing.assert_allclose(alone.log_probability, reply.log_probability, atol=1e-3)


def test_all_graphs_share_one_weights_file(fresh):
    """The checkpoint holds every weight once, and the graphs' own data are small compared with it."""
    weights = (fresh.folder / "model.safetensors").stat().st_size
    graphs = sum(path.stat().st_size for path in fresh.folder.glob("*.onnx"))
    assert not list(fresh.folder.glob("*.data"))
    assert graphs < 4 * 0.75e6 + weights

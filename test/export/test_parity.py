# SPDX-License-Identifier: Apache-2.0
"""Exported graphs agree with torch: look, read, append and decode, on a freshly exported random model and on tiny.

After every training, tiny is the model to be tested here: the random model alone shows no faults of trained weights.
"""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from depthlm_ros.backends.base import StepInput  # noqa: E402
from depthlm_ros.backends.generation import Query, generate  # noqa: E402
from depthlm_ros.backends.registry import open_backend  # noqa: E402
from depthlm_ros.errors import BackendFailed  # noqa: E402
from depthlm_ros.export import parity  # noqa: E402
from depthlm_ros.model_files.bundle import find_bundle, load_bundle  # noqa: E402
from depthlm_ros.nets.depth_first import load_checkpoint  # noqa: E402

pytestmark = pytest.mark.torch
WATCHED = np.array([3, 7])


@pytest.fixture(scope="module", params=["random", "tiny"])
def pair(request):
    """Returns (backend onnxruntime, backend torch, bundle) of one model."""
    random = request.param == "random"
    bundle = request.getfixturevalue("random_bundle") if random else load_bundle(find_bundle("tiny"))
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


def looks_at(backends, images):
    """Returns what each backend sees and reads."""
    return [backend.read(backend.look(images)) for backend in backends]


def assert_same_look(found, expected, bundle):
    np.testing.assert_allclose(found.depth_m, expected.depth_m, rtol=1e-3)
    assert (found.relative_std is None) == (expected.relative_std is None) == (not bundle.depth_first)
    if bundle.depth_first:
        np.testing.assert_allclose(found.relative_std, expected.relative_std, rtol=1e-3)
    for left, right in zip(found.prefix, expected.prefix, strict=True):
        np.testing.assert_allclose(left.numpy(), right, atol=2e-3)
    assert (found.length, found.next_position) == (expected.length, expected.next_position)
    assert found.prompts == expected.prompts and not found.needs_reading


def test_look_agrees_with_torch_at_every_canvas_size(pair):
    *backends, bundle = pair
    for size_px in bundle.canvases_px:
        found, expected = looks_at(backends, [canvas(size_px)])
        assert found.depth_m.shape == (1, size_px[1], size_px[0])
        assert_same_look(found, expected, bundle)


def test_look_at_two_images_agrees_with_torch_and_keeps_the_depth_of_the_first(pair):
    *backends, bundle = pair
    if not bundle.pairs:
        pytest.skip("this model was exported for one image")
    for size_px in bundle.canvases_px:
        images = [canvas(size_px, seed) for seed in (1, 2)]
        if bundle.depth_first:
            found, expected = (backend.look(images) for backend in backends)
            for ours, theirs in ((found, expected), (found.second, expected.second)):
                np.testing.assert_allclose(ours.depth_m, theirs.depth_m, rtol=1e-3)
                np.testing.assert_allclose(ours.host_features, theirs.host_features, rtol=1e-2, atol=1e-2)
        else:
            found, expected = looks_at(backends, images)
            assert_same_look(found, expected, bundle)
        np.testing.assert_allclose(found.depth_m, backends[0].look(images[:1]).depth_m, rtol=1e-4)


def test_depth_of_another_network_is_read_as_in_torch(pair):
    *backends, bundle = pair
    if not bundle.depth_first:
        pytest.skip("this model reads no depth")
    looks = [backend.look([canvas(bundle.canvases_px[0])]) for backend in backends]
    farther = [replace(look, depth_m=look.depth_m * 2, relative_std=look.relative_std * 0.5) for look in looks]
    own, (found, expected) = (
        backends[0].read(looks[0]),
        [b.read(look) for b, look in zip(backends, farther, strict=True)],
    )
    for mine, left, right in zip(own.prefix, found.prefix, expected.prefix, strict=True):
        np.testing.assert_allclose(left.numpy(), right, atol=2e-3)
        assert np.abs(mine.numpy() - left.numpy()).max() > 1e-2


def test_append_and_decode_agree_with_torch(pair):
    ours, reference, bundle = pair
    rng = np.random.default_rng(2)
    ids, more = rng.integers(0, 200, (3, 9)), rng.integers(0, 200, (3, 1))
    outputs = []
    for backend in (ours, reference):
        look = backend.read(backend.look([canvas(bundle.canvases_px[0], 1)]))
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
    look = ours.read(ours.look([canvas(bundle.canvases_px[0])]))
    outputs = [ours.step(ours.cache(look, 1, 7), question(look, [[3, 4, 5]], [2], shift)).watched for shift in (0, 40)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_replies_agree_with_torch_token_by_token(pair):
    ours, reference, bundle = pair
    stops = np.zeros(2048, bool)
    queries = [Query([5, 6, 7, 8][:n], stops, 10) for n in (4, 2, 3)]
    a, b = (
        generate(backend, backend.read(backend.look([canvas(bundle.canvases_px[0], 4)])), queries, WATCHED)
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
    together = generate(reference, reference.read(reference.look([images])), queries, WATCHED)
    for image, query, reply in zip(images, queries, together, strict=True):
        alone = generate(reference, reference.read(reference.look([image[None]])), [query], WATCHED)[0]
        assert alone.ids == reply.ids
        np.testing.assert_allclose(alone.log_probability, reply.log_probability, atol=1e-3)


def test_parity_is_measured_of_depth_deviation_and_words_and_other_weights_are_reported(random_bundle, monkeypatch):
    model = load_checkpoint(random_bundle.folder).eval()
    same = parity.measure_parity(model, random_bundle, 1)
    assert same.depth_max < 1e-3 and same.std_mean < 1e-3 and same.same_token is True
    with torch.no_grad():
        model.decoder.to_bins.weight.mul_(0.7)
    with pytest.raises(BackendFailed, match=r"random: the exported model differs from torch by .* of the depth on"):
        parity.measure_parity(model, random_bundle, 1)
    monkeypatch.setitem(parity.MAX_MEAN_DIFFERENCE, "fp32", 1.0)
    assert parity.measure_parity(model, random_bundle, 1).std_mean > 1e-2


def test_all_graphs_share_one_weights_file(random_bundle):
    """The checkpoint holds every weight once, and the graphs' own data are small compared with it."""
    weights = (random_bundle.folder / "model.safetensors").stat().st_size
    graphs = sum(path.stat().st_size for path in random_bundle.folder.glob("*.onnx"))
    assert not list(random_bundle.folder.glob("*.data"))
    assert graphs < 0.1 * weights

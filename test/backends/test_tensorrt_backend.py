# SPDX-License-Identifier: Apache-2.0
"""How backend tensorrt handles plans, buffers and recorded runs, on doubles of TensorRT and CUDA.

The engines of the doubles run in ONNX Runtime, so replies must equal those of backend onnxruntime. The behaviour of
TensorRT itself is checked by test_tensorrt.py on machines that have it.
"""

import ctypes
import gc
import json
import logging
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from support import tensorrt_double
from support.depth_first_bundle import SIZES_PX, grey_image, write_one_pass_bundle
from support.paths import ROOT

from depthlm_ros.backends.base import StepInput
from depthlm_ros.backends.generation import Query, generate
from depthlm_ros.backends.onnx_runtime import OnnxRuntimeBackend
from depthlm_ros.backends.tensorrt.backend import TensorRTBackend
from depthlm_ros.backends.tensorrt.cuda_device import open_device, parse_device_index
from depthlm_ros.backends.tensorrt.plan_file import key_path, machine_of
from depthlm_ros.errors import BackendFailed, BadBundle, BadPlans, BadQuestion, OutOfMemory
from depthlm_ros.export.build_progress import BuildProgress
from depthlm_ros.export.trt_builder import StepLimits, build_plan, plan_requests
from depthlm_ros.model_files.bundle import find_bundle, load_bundle

pytestmark = pytest.mark.torch
BUNDLE = load_bundle(find_bundle("tiny"))
LIMITS = StepLimits(rows=4, tokens=24, slots=40, watched=8)
NEVER = np.zeros(1536, bool)
WATCHED = np.array([3, 7, 11])


@pytest.fixture
def double(monkeypatch):
    """Gives (the module tensorrt, the memory of the device)."""
    yield tensorrt_double.install(monkeypatch)
    gc.collect()


def build_plans(bundle, folder, only_depth=False):
    machine = machine_of(open_device().facts(), "10.3.0")
    for request in plan_requests(bundle, folder, "fp16", 1 << 28, LIMITS, only_depth):
        build_plan(request, machine, folder / "timings.cache", BuildProgress(), print)


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """A folder with all plans of the embedded model, built with the doubles."""
    folder = tmp_path_factory.mktemp("plans")
    with pytest.MonkeyPatch.context() as monkeypatch:
        tensorrt_double.install(monkeypatch)
        build_plans(BUNDLE, folder)
    return folder


@pytest.fixture
def backend(double, plans):
    return TensorRTBackend(BUNDLE, plans=plans)


@pytest.fixture(scope="module")
def reference():
    return OnnxRuntimeBackend(BUNDLE, 1)


def canvas(seed=0, size_px=BUNDLE.canvases_px[0]):
    return np.random.default_rng(seed).integers(0, 256, (1, size_px[1], size_px[0], 3), dtype=np.uint8)


def queries(*lengths, new=6, seed=5):
    rng = np.random.default_rng(seed)
    return [Query(list(rng.integers(5, 300, length)), NEVER, new) for length in lengths]


def read(model, seed=1):
    """Returns a look whose prefix is there."""
    return model.read(model.look([canvas(seed)]))


def assert_same(ours, theirs):
    assert [reply.ids for reply in ours] == [reply.ids for reply in theirs]
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left.log_probability, right.log_probability, atol=1e-4)
        np.testing.assert_allclose(left.watched, right.watched, atol=1e-4)


def test_looks_at_every_canvas_equal_those_of_onnx_runtime(backend, reference):
    for size_px in BUNDLE.canvases_px:
        for seed in range(4):  # the first run is plain, the second one is recorded, all others are replayed
            ours, theirs = (model.look([canvas(seed, size_px)]) for model in (backend, reference))
            np.testing.assert_allclose(ours.depth_m, theirs.depth_m, rtol=1e-5)
            assert (ours.length, ours.next_position) == (theirs.length, theirs.next_position)


def test_replies_equal_those_of_onnx_runtime(backend, reference):
    looks = [model.look([canvas(1)]) for model in (backend, reference)]
    for lengths in ((7,), (4, 9, 2), (3, 3, 3, 3)):
        ours, theirs = (
            generate(model, look, queries(*lengths), WATCHED)
            for model, look in zip((backend, reference), looks, strict=True)
        )
        assert_same(ours, theirs)


def test_runs_are_recorded_once_and_then_replayed(backend, double):
    look = read(backend)
    generate(backend, look, queries(3, new=8), WATCHED)
    first = double[1].replays
    assert first > 0
    generate(backend, look, queries(3, new=8, seed=6), WATCHED)
    assert double[1].replays - first == 7  # every token after the question's own pass


def test_an_earlier_question_does_not_change_the_next_reply(backend, reference):
    """The longer questions come first: their keys lie in slots that the shorter ones mask."""
    look, theirs = read(backend), read(reference)
    for lengths in ((20, 20), (2, 3)):
        assert_same(
            generate(backend, look, queries(*lengths), WATCHED), generate(reference, theirs, queries(*lengths), WATCHED)
        )


def test_nan_in_the_buffers_of_one_question_does_not_reach_the_next(backend, reference):
    """A masked slot is multiplied by zero, but zero times NaN is NaN: buffers are cleared before their next use."""
    look = read(backend)
    cache = backend.cache(look, 1, 20)
    backend.look([canvas(2)])  # waits for the work on the stream
    for array in cache.buffers.text:
        raw = (ctypes.c_float * (array.nbytes // 4)).from_address(array.address)
        np.frombuffer(raw, np.float32)[:] = np.nan
    del cache
    assert_same(
        generate(backend, look, queries(14), WATCHED),
        generate(reference, reference.look([canvas(1)]), queries(14), WATCHED),
    )


def test_an_old_look_can_be_asked_after_newer_looks(backend, reference):
    seeds = (1, 2, 3)
    ours, theirs = ([model.look([canvas(seed)]) for seed in seeds] for model in (backend, reference))
    for index in (2, 0, 1, 0):
        np.testing.assert_allclose(ours[index].depth_m, theirs[index].depth_m, rtol=1e-5)
        assert_same(
            generate(backend, ours[index], queries(5), WATCHED), generate(reference, theirs[index], queries(5), WATCHED)
        )


def test_two_caches_in_use_at_once_do_not_mix(backend, reference):
    """Two caches of the same size, as with two threads."""
    results = {}
    for name, model in (("ours", backend), ("theirs", reference)):
        look = read(model)
        caches = [model.cache(look, 1, 16) for _ in range(2)]
        mask = np.full((1, 16), -np.inf, np.float32)
        for row, ids in enumerate(([[5, 6, 7]], [[90, 91, 92]])):
            at = look.next_position + np.arange(3)[None]
            model.step(caches[row], StepInput(np.array(ids), at, np.array([2]), mask, 0, WATCHED))
        mask[:, :3] = 0
        results[name] = [
            model.step(
                cache,
                StepInput(np.array([[8]]), np.array([[look.next_position + 3]]), np.array([0]), mask, 3, WATCHED),
            )
            for cache in caches
        ]
    for ours, theirs in zip(results["ours"], results["theirs"], strict=True):
        np.testing.assert_array_equal(ours.chosen, theirs.chosen)
        np.testing.assert_allclose(ours.watched, theirs.watched, atol=1e-4)
    assert abs(results["ours"][0].watched - results["ours"][1].watched).max() > 1e-3


def test_a_second_text_sees_the_first_text(backend, reference):
    outputs = []
    for model in (backend, reference):
        look = read(model)
        cache, mask = model.cache(look, 1, 16), np.full((1, 16), -np.inf, np.float32)
        for at, ids in ((0, [[5, 6, 7]]), (3, [[8, 9]])):
            mask[:, :at] = 0
            positions = look.next_position + at + np.arange(len(ids[0]))[None]
            given = StepInput(np.array(ids), positions, np.array([len(ids[0]) - 1]), mask.copy(), at, WATCHED)
            outputs.append(model.step(cache, given))
    np.testing.assert_allclose(outputs[1].watched, outputs[3].watched, atol=1e-4)


def test_generation_without_watched_tokens(backend, reference):
    nothing = np.zeros(0, np.int64)
    replies = generate(backend, backend.look([canvas(1)]), queries(3), nothing)
    assert replies[0].watched.shape == (6, 0)
    assert replies[0].ids == generate(reference, reference.look([canvas(1)]), queries(3), nothing)[0].ids


def test_the_number_of_watched_tokens_can_change_between_questions(backend, reference):
    look, theirs = backend.look([canvas(1)]), reference.look([canvas(1)])
    for watched in (WATCHED, WATCHED[:1], np.arange(8)):
        assert_same(generate(backend, look, queries(3), watched), generate(reference, theirs, queries(3), watched))


def test_more_questions_than_the_engine_takes_are_asked_in_batches(backend, reference, caplog):
    many = queries(*[3 + index % 4 for index in range(10)])
    with caplog.at_level(logging.ERROR):
        ours = generate(backend, backend.look([canvas(1)]), many, WATCHED)
    assert_same(ours, generate(reference, reference.look([canvas(1)]), many, WATCHED))


def test_text_longer_than_the_engine_takes_is_refused(backend):
    look = backend.look([canvas(1)])
    with pytest.raises(BadQuestion, match="need 46 tokens: the engine was built for 40"):
        generate(backend, look, queries(40), WATCHED)
    with pytest.raises(BadQuestion, match="question has 30 tokens: the engine was built for 24"):
        generate(backend, look, queries(30), WATCHED)
    assert generate(backend, look, queries(3), WATCHED)[0].ids


def test_memory_is_used_again_when_looks_and_caches_are_gone(backend, double):
    def used():
        gc.collect()
        return sum(len(block) for block in double[1].live.values())

    def work(seed):
        generate(backend, backend.look([canvas(seed)]), queries(5, 5), WATCHED)

    work(1)
    work(2)
    settled = used()
    for seed in range(3, 9):
        work(seed)
    assert used() == settled


def test_free_buffers_of_other_sizes_are_released_when_memory_is_short(backend, double):
    look = read(backend)
    generate(backend, look, queries(5, 5, 5, 5), WATCHED)
    gc.collect()
    double[1].limit_bytes = sum(len(block) for block in double[1].live.values())
    assert generate(backend, look, queries(5, 5), WATCHED)[1].ids
    double[1].limit_bytes = 0
    with pytest.raises(OutOfMemory, match="out of memory"):
        backend.cache(look, 3, 40)


def test_threads_take_turns(backend, reference):
    looks = {seed: reference.look([canvas(seed)]) for seed in range(4)}
    wanted = {seed: generate(reference, look, queries(4, 6), WATCHED) for seed, look in looks.items()}
    got, errors = {}, []

    def ask(seed):
        try:
            got[seed] = generate(backend, backend.look([canvas(seed)]), queries(4, 6), WATCHED)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for seed, replies in wanted.items():
        assert_same(got[seed], replies)


def test_an_engine_for_depth_only_gives_depth_and_refuses_questions(double, tmp_path):
    build_plans(BUNDLE, tmp_path, only_depth=True)
    backend = TensorRTBackend(BUNDLE, plans=tmp_path)
    look = backend.look([canvas(1)])
    assert look.depth_m.shape == (1, BUNDLE.canvases_px[0][1], BUNDLE.canvases_px[0][0])
    with pytest.raises(BadQuestion, match="depth only"):
        backend.cache(look, 1, 8)


def test_three_images_are_refused(backend):
    with pytest.raises(BadQuestion, match=r"look at 2 image\(s\) at a time"):
        backend.look([canvas(1), canvas(2), canvas(3)])


def test_two_images_are_looked_at_in_turn(backend, reference):
    looks = [model.look([canvas(1), canvas(2)]) for model in (backend, reference)]
    for ours, theirs in (looks, (looks[0].second, looks[1].second)):
        np.testing.assert_allclose(ours.depth_m, theirs.depth_m, rtol=1e-5)
        np.testing.assert_allclose(ours.host_features, theirs.host_features, rtol=1e-3, atol=1e-4)
    with pytest.raises(BadQuestion, match="in one size; use images of one camera"):
        backend.look([canvas(1), canvas(2, BUNDLE.canvases_px[1])])


def test_keys_and_values_can_come_with_the_look(double, tmp_path):
    """The graphs of other models give them at once, of one image or of two."""
    bundle = write_one_pass_bundle(tmp_path / "bundle")
    build_plans(bundle, tmp_path)
    for backend in (TensorRTBackend(bundle, plans=tmp_path), OnnxRuntimeBackend(bundle, 1)):
        for first, second in ((100, 250), (250, 100), (30, 20)):
            one = backend.look([grey_image(first)])
            two = backend.look([grey_image(first), grey_image(second)])
            for look, brightest in ((one, first), (two, max(first, second))):
                assert not look.needs_reading and backend.read(look) is look
                np.testing.assert_allclose(look.depth_m, 1 + first / 100, rtol=1e-6)
                wanted = round(10 * (1 + brightest / 100)) + brightest
                assert generate(backend, look, queries(3, new=2), WATCHED)[0].ids == (wanted, wanted)
            assert (one.length, two.length) == (3 + 8, 4 + 16)
            assert two.next_position == bundle.next_position(SIZES_PX[0], 2)
        with pytest.raises(BadQuestion, match="in one size; use images of one camera"):
            backend.look([grey_image(1), grey_image(1, SIZES_PX[1])])
    (tmp_path / "pair_64x32.plan").unlink()
    with pytest.raises(BadBundle, match=r"no pair_64x32\.plan"):
        TensorRTBackend(bundle, plans=tmp_path)


def test_a_canvas_without_a_plan_is_refused_when_loading(double, plans, tmp_path):
    shutil.copytree(plans, tmp_path / "some")
    (tmp_path / "some" / "look_384x288.plan").unlink()
    with pytest.raises(BadBundle, match=r"no look_384x288\.plan.*depthlm engine build --model tiny"):
        TensorRTBackend(BUNDLE, plans=tmp_path / "some")


def test_a_build_that_ended_before_the_step_plan_is_not_taken_for_depth_only(double, plans, tmp_path):
    shutil.copytree(plans, tmp_path / "some")
    for name in ("step.plan", "step.plan.json"):
        (tmp_path / "some" / name).unlink()
    with pytest.raises(BadPlans, match=r"no step\.plan") as error:
        TensorRTBackend(BUNDLE, plans=tmp_path / "some")
    assert error.value.rebuild == "depthlm engine build --model tiny --backend tensorrt"


def test_the_build_command_names_the_folder_and_the_options_of_the_engine(double, tmp_path):
    copy = tmp_path / "my tiny"
    shutil.copytree(BUNDLE.folder, copy)
    bundle = replace(BUNDLE, folder=copy)
    build_plans(bundle, copy, only_depth=True)
    double[0].__version__ = "10.9.0"
    with pytest.raises(BadPlans, match=r"TensorRT is 10\.9\.0, but the plan was built for 10\.3\.0") as error:
        TensorRTBackend(bundle)
    assert error.value.rebuild == f"depthlm engine build --model '{copy}' --backend tensorrt --depth-only"
    assert str(error.value).endswith(error.value.rebuild)


def test_a_damaged_description_of_a_plan_is_reported_with_the_command(double, plans, tmp_path):
    shutil.copytree(plans, tmp_path / "some")
    (tmp_path / "some" / "step.plan.json").write_text("{")
    with pytest.raises(BadPlans, match=r"step\.plan\.json is damaged.*depthlm engine build --model tiny"):
        TensorRTBackend(BUNDLE, plans=tmp_path / "some")


def test_plans_of_another_tensorrt_are_refused_when_loading(monkeypatch, plans):
    tensorrt_double.install(monkeypatch, version="10.13.3.9")
    with pytest.raises(BadBundle, match=r"TensorRT is 10\.13\.3\.9, but the plan was built for 10\.3\.0"):
        TensorRTBackend(BUNDLE, plans=plans)


def test_a_changed_graph_makes_its_plan_stale(double, plans, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(BUNDLE.folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["step.onnx"] = "00" * 32
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadBundle, match=r"step\.onnx has changed since the plan was built"):
        TensorRTBackend(replace(BUNDLE, folder=copy), plans=plans)


def test_a_plan_that_tensorrt_refuses_is_reported_with_its_message(double, plans, tmp_path):
    """The file agrees with its JSON, but is not a plan."""
    shutil.copytree(plans, tmp_path / "bad")
    from depthlm_ros.backends.tensorrt.plan_file import read_key, write_plan

    plan = tmp_path / "bad" / "look_256x192.plan"
    write_plan(plan, b"not a plan", read_key(key_path(plan)))
    backend = TensorRTBackend(BUNDLE, plans=tmp_path / "bad")
    with pytest.raises(BackendFailed, match="magic tag does not match"):
        backend.look([canvas(1)])


def test_an_error_without_tensorrt_names_another_backend(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendFailed, match="backend onnxruntime"):
        TensorRTBackend(BUNDLE)


def test_an_error_without_a_library_for_the_device_names_the_libraries(double, monkeypatch):
    for name in ("cuda.bindings", "cuda", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendFailed, match="cuda-python or torch"):
        TensorRTBackend(BUNDLE)


def test_importing_the_backend_loads_neither_tensorrt_nor_cuda_nor_torch():
    code = "import sys, depthlm_ros.backends.tensorrt.backend; print(*{'tensorrt', 'cuda', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_a_missing_device_is_reported_by_number(double):
    with pytest.raises(BackendFailed, match="CUDA device 3: invalid device"):
        TensorRTBackend(BUNDLE, device="cuda:3")
    with pytest.raises(BackendFailed, match="TensorRT cannot use device 'cpu'"):
        parse_device_index("cpu")

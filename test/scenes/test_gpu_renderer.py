"""The kernels for a GPU render the same pictures as the CPU, and they compile for GPUs of robots and of servers.

No GPU is needed: numba's simulator runs the Python code of the kernels thread by thread, and its compiler needs no
device.
"""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from support.paths import ROOT

from depthlm_ros.core import Intrinsics
from depthlm_ros.errors import SetupError, UnknownName
from depthlm_ros.scenes.camera.lens import sample_lens
from depthlm_ros.scenes.camera.viewpoints import sample_pose
from depthlm_ros.scenes.renderer.batch import CameraShot, pack_shots
from depthlm_ros.scenes.renderer.gpu import (
    allocate_buffers,
    kernel_launches,
    mirror_cameras,
    render_batch,
    render_shots,
)
from depthlm_ros.scenes.renderer.render import render
from depthlm_ros.scenes.world.dice import Dice
from depthlm_ros.scenes.world.sample import build_outdoor_scene, sample_scene

TINY = Intrinsics(12.0, 11.0, 7.2, 5.9, 16, 12)
SIMULATE = """
import pickle, sys
from depthlm_ros.scenes.renderer.gpu import render_batch
made = render_batch(*pickle.load(open(sys.argv[1], "rb")))
pictures = [(one.rgb, one.depth_m, one.object_id, one.undistorted_lattice_px) for one in made]
pickle.dump(pictures, open(sys.argv[2], "wb"))
"""
COMPILE = """
import pickle, sys, types
import numba, numpy as np
from numba import cuda
from numba.cuda import dispatcher
from depthlm_ros.scenes.renderer.batch import pack_shots
from support.paths import ROOT  # noqa: E402
from depthlm_ros.scenes.renderer.gpu import allocate_buffers, kernel_launches, mirror_cameras

cc = (int(sys.argv[2]), int(sys.argv[3]))
# When numba compiles a function that a kernel calls, it asks the driver for the GPU.
dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=cc)
shots, camera = pickle.load(open(sys.argv[1], "rb"))
world, views = pack_shots(shots, camera)
made = allocate_buffers(np.empty, world, len(shots), camera.height_px, camera.width_px)
for launch in kernel_launches(world, views, mirror_cameras(world, views), made):
    signature = tuple(numba.typeof(arg) for arg in launch.args)
    ptx, _ = cuda.compile_ptx(launch.kernel.py_func, signature, cc=cc, device=False, abi="numba")
    assert f".target sm_{cc[0]}{cc[1]}" in ptx and ".visible .entry" in ptx
    print(launch.kernel.py_func.__name__)
"""


def tiny_shots():
    """Returns shots of a street with wet ground and of two rooms, one of them with lens distortion."""
    shots = []
    for seed, make in enumerate((lambda rng: build_outdoor_scene(Dice(rng)), sample_scene, sample_scene)):
        rng = np.random.default_rng(seed)
        scene = make(rng)
        shots.append(CameraShot(scene, sample_pose(rng, scene), sample_lens(rng, TINY) if seed == 1 else None))
    return [*shots, CameraShot(shots[1].scene, sample_pose(np.random.default_rng(9), shots[1].scene))]


def run(code, *args, **environment):
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], env=variables, capture_output=True, text=True)


def has_gpu():
    try:
        from numba import cuda
    except ImportError:
        return False
    return cuda.is_available()


def test_simulated_kernels_render_the_same_pictures_as_the_cpu(tmp_path):
    shots = tiny_shots()
    assert sum(shot.scene.paints[4, 8] > 0 for shot in shots) >= 2
    (tmp_path / "shots").write_bytes(pickle.dumps((shots, TINY)))
    ran = run(SIMULATE, tmp_path / "shots", tmp_path / "made", NUMBA_ENABLE_CUDASIM="1", NUMBA_DISABLE_JIT="1")
    assert ran.returncode == 0, ran.stderr
    outputs = pickle.loads((tmp_path / "made").read_bytes())
    for shot, (rgb, depth_m, object_id, undistorted_lattice_px) in zip(shots, outputs, strict=True):
        true = render(shot.scene, shot.pose, TINY, shot.lens)
        assert np.allclose(depth_m, true.depth_m, rtol=1e-5, equal_nan=True)
        assert np.array_equal(object_id, true.object_id) and object_id.dtype == np.int16
        assert np.allclose(rgb, true.rgb, atol=2e-3) and rgb.std() > 0.02
        assert (undistorted_lattice_px is None) == (shot.lens is None)


@pytest.mark.skipif(not has_gpu(), reason="this machine has no GPU")
def test_gpu_renders_the_same_pictures_as_the_cpu():
    camera = Intrinsics(96.0, 96.0, 63.5, 47.5, 128, 96)
    for shot, outputs in zip(tiny_shots(), render_batch(tiny_shots(), camera), strict=True):
        true = render(shot.scene, shot.pose, camera, shot.lens)
        # A ray along an edge may meet either side of it.
        assert (outputs.object_id == true.object_id).mean() > 0.999
        assert (np.abs(outputs.depth_m - true.depth_m) < 1e-4 * true.depth_m)[np.isfinite(true.depth_m)].mean() > 0.999
        assert (np.abs(outputs.rgb - true.rgb) < 5e-3).mean() > 0.995


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 7), (9, 0)], ids=["orin", "hopper"])
def test_kernels_compile_for_a_gpu(capability, tmp_path):
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed (extra scenes-cuda)")
    (tmp_path / "shots").write_bytes(pickle.dumps((tiny_shots()[:1], TINY)))
    ran = run(COMPILE, tmp_path / "shots", *capability)
    assert ran.returncode == 0, ran.stderr[-3000:]
    world, views = pack_shots(tiny_shots()[:1], TINY)
    steps = list(
        kernel_launches(world, views, mirror_cameras(world, views), allocate_buffers(np.empty, world, 1, 12, 16))
    )
    assert len(ran.stdout.split()) == len(steps)


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_missing_gpu_and_unknown_device_are_reported():
    with pytest.raises(SetupError, match="render on the CPU"):
        render_shots("cuda", tiny_shots()[:1], TINY)
    with pytest.raises(UnknownName, match="cpu or cuda"):
        render_shots("tpu", [], TINY)


def test_cpu_reads_a_shot_only_when_its_picture_is_needed():
    read_shots = []

    def shots():
        for shot in tiny_shots()[:2]:
            read_shots.append(shot)
            yield shot

    pictures = render_shots("cpu", shots(), TINY)
    assert not read_shots
    assert next(pictures).depth_m.shape == (12, 16) and len(read_shots) == 1

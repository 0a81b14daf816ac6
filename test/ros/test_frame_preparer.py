# SPDX-License-Identifier: Apache-2.0
"""The next frame is prepared while a model on a GPU looks at the one before, and changes nothing in the results."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from support.paths import TINY  # noqa: E402

from depthlm_ros.model import Model, load_model  # noqa: E402
from depthlm_ros.ros.camera_info_sync import CameraImage  # noqa: E402
from depthlm_ros.ros.frame_processing import FrameProcessor  # noqa: E402
from depthlm_ros.ros.inference_thread import FramePreparer, InferenceThread  # noqa: E402
from depthlm_ros.ros.model_loading import device_of, runs_on_gpu  # noqa: E402
from depthlm_ros.ros.request_queue import RequestQueue  # noqa: E402
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog  # noqa: E402

WIDTH, HEIGHT, PERIOD_S = 160, 120, 0.04
CLOCK = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))


class SlowBackend:
    """A backend as on a GPU: while it looks, the processor is free."""

    def __init__(self, backend) -> None:
        self.backend, self.name, self.device = backend, backend.name, "cuda"
        self.looking = threading.Event()

    def look(self, images):
        self.looking.set()
        time.sleep(3 * PERIOD_S)
        return self.backend.look(images)


@pytest.fixture(scope="module")
def model():
    if not TINY.is_dir():
        pytest.skip("engines/tiny is not here: `make train` makes it")
    loaded = load_model("tiny", threads=1)
    return Model(loaded.spec, loaded.family, loaded.chat, SlowBackend(loaded.backend), loaded.tokenizer)


def header(number: int) -> Header:
    return Header(stamp=Time(sec=10, nanosec=number * 1_000_000), frame_id="camera")


def image(number: int) -> Image:
    rgb = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    message = Image(header=header(number), height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data.frombytes(rgb.tobytes())
    return message


def info(number: int, fx: float = 150.0) -> CameraInfo:
    k = [fx, 0.0, (WIDTH - 1) / 2, 0.0, fx, (HEIGHT - 1) / 2, 0.0, 0.0, 1.0]
    message = CameraInfo(header=header(number), height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", k=k)
    message.d = [0.0] * 5
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return message


class Run:
    """A queue, its two threads, and what they published."""

    def __init__(self, model) -> None:
        self.lines: list[str] = []
        problems = ProblemLog(self.lines.append)
        self.queue, self.results = RequestQueue(CLOCK, problems, 1), []
        processor = FrameProcessor(model, False, False, problems)
        self.prepared: list[int] = []
        prepare = processor.prepare

        def counted(image):
            self.prepared.append(image.number)
            return prepare(image)

        processor.prepare = counted
        self.preparer = FramePreparer(self.queue, processor)
        statistics = FrameStatistics()
        self.thread = InferenceThread(
            self.queue, self.preparer.process, self.results.append, lambda: True, statistics, problems
        )
        self.preparer.start()
        self.thread.start()

    def close(self) -> None:
        self.queue.close()
        self.preparer.join(10)
        self.thread.join(10)
        assert not self.preparer.is_alive() and not self.thread.is_alive()


@pytest.fixture
def run(model):
    model.backend.looking.clear()
    made = Run(model)
    yield made
    made.close()


def wait_until(what, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_frames_are_prepared_while_the_model_looks_and_the_newest_is_used(model, run):
    for number in range(1, 26):
        run.queue.put_info(info(number))
        run.queue.put_image(image(number))
        time.sleep(PERIOD_S)
    wait_until(lambda: run.results and run.results[-1].image.number == 25)
    numbers = [result.image.number for result in run.results]
    assert numbers == sorted(set(numbers)) and len(numbers) < 20
    assert run.preparer.prepared_ahead >= len(numbers) - 2  # all but the first, which nothing precedes
    assert len(run.prepared) == len(set(run.prepared)), "an image was prepared twice"
    plain = FrameProcessor(model, False, False, ProblemLog(lambda line: None))
    for result in run.results[:3]:
        expected = plain.process(result.image)
        np.testing.assert_array_equal(result.view.depth().depth_m, expected.view.depth().depth_m)
        assert result.view.frame.stamp_ns == result.image.stamp_ns


def test_the_time_in_which_a_prepared_frame_waits_is_no_work(model):
    processor = FrameProcessor(model, False, False, ProblemLog(lambda line: None))
    begun_s = time.perf_counter()
    prepared = processor.prepare(CameraImage(image(1), 0, 0, 0, 1, info(1)))
    time.sleep(0.5)
    stages_ms = processor.look(prepared).stopwatch.stages_ms
    assert sum(stages_ms.values()) < 1e3 * (time.perf_counter() - begun_s - 0.49)


def test_a_frame_that_was_prepared_for_another_calibration_is_prepared_anew(model, run):
    run.queue.put_info(info(1))
    run.queue.put_image(image(1))
    assert model.backend.looking.wait(20)
    run.queue.put_image(image(2))
    wait_until(lambda: 2 in run.prepared)
    run.queue.put_info(info(2, fx=170.0))
    wait_until(lambda: len(run.results) == 2)
    assert [result.view.frame.intrinsics.fx_px for result in run.results] == [150.0, 170.0]
    assert run.prepared == [1, 2, 2]


def test_a_bad_image_costs_one_frame_and_is_reported(model, run):
    run.queue.put_info(info(1))
    run.queue.put_image(image(1))
    assert model.backend.looking.wait(20)
    bad = image(2)
    bad.encoding = "nonsense"
    run.queue.put_image(bad)
    wait_until(lambda: any("nonsense" in line for line in run.lines))
    run.queue.put_image(image(3))
    wait_until(lambda: len(run.results) == 2)
    assert [result.image.number for result in run.results] == [1, 3]


def test_only_images_that_will_be_processed_are_prepared():
    problems = ProblemLog(lambda line: None)
    queue, found = RequestQueue(CLOCK, problems, 1), []
    waiting = threading.Thread(target=lambda: found.append(queue.wait_for_newer(0)))
    waiting.start()
    queue.put_image(image(1))
    waiting.join(0.3)
    assert waiting.is_alive(), "nobody watches"
    taken: list = []
    taker = threading.Thread(target=lambda: taken.append(queue.take(lambda: True)))
    taker.start()
    waiting.join(0.3)
    assert waiting.is_alive() and taker.is_alive(), "there is no calibration"
    queue.put_info(info(1))
    taker.join(10)
    assert taken[0].number == 1
    queue.put_image(image(2))
    waiting.join(10)
    assert found[-1].number in (1, 2) and found[-1].info is not None
    queue.close()
    assert queue.wait_for_newer(0) is None


def test_only_beside_a_gpu(model):
    assert device_of(model) == "cuda" and runs_on_gpu(model)
    assert not runs_on_gpu(load_model("tiny", threads=1))

# SPDX-License-Identifier: Apache-2.0
"""The next image is prepared while a model on a GPU looks at the one before, and nothing else changes."""

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
from depthlm_ros.ros.inference_thread import InferenceThread  # noqa: E402
from depthlm_ros.ros.model_loading import runs_on_gpu  # noqa: E402
from depthlm_ros.ros.request_queue import PendingQuestion, RequestQueue  # noqa: E402
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog  # noqa: E402

WIDTH, HEIGHT, PERIOD_S = 160, 120, 0.04
LOOK_S = 3 * PERIOD_S
CLOCK = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))


class SlowBackend:
    """A backend as on a GPU: while it looks, the processor is free. It finds the same depth in every image.

    looking: whether it looks. seen: the canvases.
    """

    def __init__(self, backend) -> None:
        self.backend, self.name, self.device = backend, backend.name, "cuda"
        self.looking, self.seen, self.found = threading.Event(), [], None

    def look(self, images):
        self.found = self.found or self.backend.look(images)
        self.seen.append(images[0])
        self.looking.set()
        time.sleep(LOOK_S)
        self.looking.clear()
        return self.found


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
    """A queue, its inference thread, what that published, and when images were prepared and looked at."""

    def __init__(self, model, prepares_ahead=True) -> None:
        self.lines: list[str] = []
        problems = ProblemLog(self.lines.append)
        self.queue, self.results = RequestQueue(CLOCK, problems, 4), []
        processor = FrameProcessor(model, False, False, problems)
        # Number of the image, and whether the model looked meanwhile.
        self.prepared: list[tuple[int, bool]] = []
        self.looking = model.backend.looking
        prepare = processor.prepare

        def noted(image):
            self.prepared.append((image.number, self.looking.is_set()))
            return prepare(image)

        processor.prepare = noted
        # For each look, how many images had come after that of the look.
        self.ages: list[int] = []
        look = processor.look

        def aged(prepared):
            self.ages.append(self.queue.received - prepared.image.number)
            return look(prepared)

        processor.look = aged
        self.statistics = FrameStatistics()
        arguments = (self.queue, processor, self.results.append, lambda: True, self.statistics, problems)
        self.thread = InferenceThread(*arguments, prepares_ahead=prepares_ahead)
        self.thread.start()

    def send(self, numbers, image_first=False) -> None:
        """Sends images with their calibrations at the rate of a camera, and waits until the last one is processed."""
        for number in numbers:
            parts = [(self.queue.put_info, info(number)), (self.queue.put_image, image(number))]
            for put, message in reversed(parts) if image_first else parts:
                put(message)
                time.sleep(PERIOD_S / 8)
            time.sleep(PERIOD_S)
        wait_until(lambda: self.results and self.results[-1].image.number == numbers[-1])

    def close(self) -> None:
        self.queue.close()
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("depth_preparation")]


@pytest.fixture
def run(model):
    made = Run(model)
    yield made
    made.close()


def wait_until(what, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.mark.parametrize("image_first", [False, True])
def test_each_image_is_prepared_once_while_the_model_looks_and_is_a_new_one(model, run, image_first):
    run.send(range(1, 26), image_first)
    numbers = [result.image.number for result in run.results]
    assert numbers == sorted(set(numbers)) == [number for number, _ in run.prepared]
    assert len(numbers) < 20, "the model kept up with the camera"
    beside = [is_beside for _, is_beside in run.prepared]
    assert sum(beside) >= 0.5 * len(beside)
    # Three images come during a look. The one from its beginning would be too old.
    assert sorted(run.ages)[len(run.ages) // 2] <= 1
    assert all(result.image.info.header.stamp == result.image.message.header.stamp for result in run.results[1:])


def test_frames_that_were_prepared_ahead_look_the_same_and_have_their_own_latency(model, run):
    model.backend.seen.clear()
    run.send(range(1, 9))
    plain = FrameProcessor(model, False, False, ProblemLog(lambda line: None))
    for result, seen in zip(run.results, model.backend.seen, strict=True):
        np.testing.assert_array_equal(seen[0], plain.prepare(result.image).placement.canvas)
        assert result.view.frame.stamp_ns == result.image.stamp_ns
    snapshot = run.statistics.snapshot()
    assert snapshot.frames == len(run.results) and 1e3 * LOOK_S <= snapshot.total_p50_ms < 1e3 * 20 * LOOK_S


def test_the_time_in_which_a_prepared_frame_waits_is_no_work(model):
    processor = FrameProcessor(model, False, False, ProblemLog(lambda line: None))
    begun_s = time.perf_counter()
    prepared = processor.prepare(CameraImage(image(1), 0, 0, 0, 1, info(1)))
    time.sleep(0.5)
    stages_ms = processor.look(prepared).stopwatch.stages_ms
    assert sum(stages_ms.values()) < 1e3 * (time.perf_counter() - begun_s - 0.49)


def test_a_bad_image_costs_one_frame_and_is_reported_once(run):
    run.send([1])
    run.queue.put_image(image(2))
    assert run.looking.wait(20)
    bad = image(3)
    bad.encoding = "nonsense"
    run.queue.put_image(bad)
    wait_until(lambda: any("nonsense" in line for line in run.lines))
    run.send([4])
    assert [result.image.number for result in run.results] == [1, 2, 4]
    assert [number for number, _ in run.prepared] == [1, 2, 3, 4]
    assert sum("nonsense" in line for line in run.lines) == 1


def test_questions_are_answered_between_frames_that_are_prepared_ahead(run):
    run.send(range(1, 5))
    answered = []
    for number in range(5, 15):
        pending = PendingQuestion(lambda result: result.image.number, False)
        run.queue.put_question(pending)
        answered.append(pending.future)
        run.queue.put_info(info(number))
        run.queue.put_image(image(number))
        time.sleep(PERIOD_S)
    assert [future.result(5) for future in answered] == sorted(future.result() for future in answered)


def test_beside_a_model_on_the_cpu_nothing_is_prepared_ahead(model):
    alone = Run(model, prepares_ahead=False)
    alone.send(range(1, 9))
    alone.close()
    assert not any(is_beside for _, is_beside in alone.prepared)
    assert runs_on_gpu(model) and not runs_on_gpu(load_model("tiny", threads=1))

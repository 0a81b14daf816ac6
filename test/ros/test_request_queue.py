# SPDX-License-Identifier: Apache-2.0
"""The request queue keeps only the newest image, lets questions wait for the right one, and pairs calibrations."""

import itertools
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from types import SimpleNamespace

import pytest

from depthlm_ros.ros.camera_info_sync import INFO_TIMEOUT_NS, NS_PER_S, CameraImage, CameraInfoSync
from depthlm_ros.ros.request_queue import PendingQuestion, QueueClosed, QueueFull, RequestQueue
from depthlm_ros.ros.statistics import FORGOTTEN_S, LOG_PERIOD_S, MAX_LOG_PERIOD_S, ProblemLog

START_NS = 1_000 * NS_PER_S


def message(stamp_ns: int, frame_id: str = "camera", **fields) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id=frame_id), **fields)


def watched() -> bool:
    return True


def unwatched() -> bool:
    return False


class FakeClock:
    """The clock of a node; a test sets the time."""

    def __init__(self) -> None:
        self.nanoseconds = START_NS

    def now(self) -> SimpleNamespace:
        return SimpleNamespace(nanoseconds=self.nanoseconds)


class QueueUser:
    """A queue, and what its inference thread does: it takes work and stores the result."""

    def __init__(self, max_questions: int = 4, history_s: float = 0.0) -> None:
        self.logged: list[str] = []
        self.problems = ProblemLog(self.logged.append)
        self.clock = FakeClock()
        self.queue = RequestQueue(self.clock, self.problems, max_questions, history_s)
        self.info = message(START_NS - NS_PER_S)
        self.queue.put_info(self.info)

    def put_image(self, at_ms: int, clock_ms: int | None = None) -> None:
        self.clock.nanoseconds = START_NS + (at_ms if clock_ms is None else clock_ms) * 1_000_000
        self.queue.put_image(message(START_NS + at_ms * 1_000_000))

    def ask(self, is_fresh: bool = False, at_ms: int = 0) -> PendingQuestion:
        self.clock.nanoseconds = START_NS + at_ms * 1_000_000
        question = PendingQuestion(lambda result: result.image.stamp_ns, is_fresh)
        self.queue.put_question(question)
        return question

    def work(self, is_watched=watched) -> tuple[str, int]:
        """Does the next work and returns ("image" or "answer", stamp of the image in ms)."""
        work = self.queue.take(is_watched)
        if isinstance(work, CameraImage):
            self.queue.set_frame_result(SimpleNamespace(image=work))
            return "image", self.ms_of(work)
        assert work
        for question in work:
            if question.future.set_running_or_notify_cancel():
                question.future.set_result(question.work(question.frame_result))
        return "answer", self.ms_of(work[0].frame_result.image)

    def has_nothing_to_do(self, is_watched=watched) -> bool:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.queue.take, is_watched)
            try:
                waiting.result(0.15)
            except NotYet:
                return True
            finally:
                self.queue.close()
        return False

    @staticmethod
    def ms_of(image: CameraImage) -> int:
        return (image.stamp_ns - START_NS) // 1_000_000


class TestImages:
    def test_newest_image_replaces_waiting_ones_and_they_are_counted_as_dropped(self):
        user = QueueUser()
        user.put_image(0)
        assert user.work() == ("image", 0)
        for at_ms in (10, 20, 30):
            user.put_image(at_ms)
        assert user.work() == ("image", 30)
        assert (user.queue.received, user.queue.dropped) == (4, 2)

    def test_each_image_is_taken_once(self):
        user = QueueUser()
        user.put_image(0)
        user.work()
        assert user.has_nothing_to_do()

    def test_no_image_is_taken_while_nobody_watches(self):
        user = QueueUser()
        user.put_image(0)
        assert user.has_nothing_to_do(unwatched)

    def test_image_that_nobody_wanted_is_not_counted_as_dropped(self):
        user = QueueUser()
        for at_ms in range(5):
            user.put_image(at_ms)
        assert user.queue.dropped == 0

    def test_image_waits_while_there_is_no_calibration(self):
        user = QueueUser()
        user.queue = RequestQueue(user.clock, user.problems, 4)
        user.put_image(0)
        assert user.has_nothing_to_do()

    def test_late_image_is_left_out_and_reported(self):
        user = QueueUser()
        user.put_image(100)
        user.put_image(60)
        assert user.work() == ("image", 100)
        assert user.problems.counts == {"late image": 1} and "40.0 ms older" in user.logged[0]
        assert (user.queue.arrived, user.queue.received) == (2, 1)

    def test_images_are_taken_again_after_time_went_back(self):
        user = QueueUser()
        user.put_image(60_000)
        user.work()
        user.put_image(5)
        user.queue.put_info(message(START_NS))
        assert user.work() == ("image", 5)
        assert user.problems.counts == {"time went back": 1} and "60.0 s" in user.logged[0]

    def test_result_of_an_image_from_before_time_went_back_answers_nothing(self):
        user = QueueUser()
        user.put_image(60_000)
        image = user.queue.take(watched)
        user.queue.restart("the clock went back")
        user.queue.set_frame_result(SimpleNamespace(image=image))
        assert not user.queue.can_answer


class TestQuestions:
    def test_question_can_wait_for_an_image_in_process_but_not_for_one_that_failed(self):
        user = QueueUser()
        user.put_image(0)
        user.queue.take(watched)
        assert user.queue.can_answer
        assert user.has_nothing_to_do()  # the inference thread asks for work and has stored no result
        assert not user.queue.can_answer

    def test_question_is_answered_from_the_last_result_while_somebody_watches(self):
        user = QueueUser()
        user.put_image(0)
        user.work()
        user.put_image(10)
        question = user.ask()
        assert user.work() == ("answer", 0)
        assert question.future.result(0) == START_NS
        assert user.work() == ("image", 10)

    def test_question_gets_the_newest_image_while_nobody_watches(self):
        user = QueueUser()
        user.put_image(0)
        user.work()
        user.put_image(10)
        user.ask()
        assert user.work(unwatched) == ("image", 10)
        user.put_image(20)
        assert user.work(unwatched) == ("answer", 10)
        assert user.has_nothing_to_do(unwatched)

    def test_images_and_questions_take_turns_while_both_wait(self):
        user = QueueUser(max_questions=8)
        user.put_image(0)
        user.work()
        done = []
        for turn in range(1, 7):
            user.put_image(10 * turn)
            user.ask()
            done.append(user.work()[0])
        assert done == ["answer", "image"] * 3

    def test_fresh_question_waits_for_an_image_taken_after_the_request(self):
        user = QueueUser()
        user.put_image(0)
        user.work()
        user.put_image(10)
        question = user.ask(is_fresh=True, at_ms=30)
        assert user.work() == ("image", 10)
        user.put_image(20)  # taken before the request, arrives after it
        assert user.work() == ("image", 20)
        assert not question.future.done()
        user.put_image(40)
        assert [user.work(), user.work()] == [("image", 40), ("answer", 40)]

    def test_order_of_arrival_decides_for_a_fresh_question_if_the_camera_has_another_clock(self):
        user = QueueUser()
        user.put_image(0, clock_ms=9_000_000)
        question = user.ask(is_fresh=True, at_ms=9_000_000)
        assert user.work() == ("image", 0)
        user.put_image(10, clock_ms=9_000_010)
        user.work()
        assert user.work() == ("answer", 10)
        assert question.future.result(0) == START_NS + 10_000_000

    def test_image_from_before_the_request_is_not_processed_for_a_fresh_question(self):
        user = QueueUser()
        user.put_image(0)
        user.ask(is_fresh=True, at_ms=5)
        assert user.has_nothing_to_do(unwatched)

    def test_several_questions_are_answered_together(self):
        user = QueueUser()
        user.put_image(0)
        user.work()
        questions = [user.ask() for _ in range(3)]
        user.work()
        assert all(question.future.done() for question in questions)

    def test_too_many_questions_are_refused_until_one_is_done(self):
        queue = QueueUser(max_questions=2).queue
        with queue.reserve_place():
            with (
                queue.reserve_place(),
                pytest.raises(QueueFull, match="2 questions wait already"),
                queue.reserve_place(),
            ):
                pass
            with queue.reserve_place():
                pass

    def test_image_that_is_too_old_for_a_question_does_not_wake_the_thread_again_and_again(self):
        user = QueueUser()
        user.put_image(0)
        user.ask(is_fresh=True, at_ms=5)
        wakes = []
        assert user.has_nothing_to_do(lambda: bool(wakes.append(0)))
        assert len(wakes) <= 3

    def test_cancelled_question_costs_no_work(self):
        user = QueueUser()
        user.put_image(0)
        user.work()
        user.ask().future.cancel()
        assert user.has_nothing_to_do()

    def test_question_with_its_own_images_needs_no_image_of_the_camera(self):
        user = QueueUser()
        question = PendingQuestion(lambda result: result, False, needs_frame=False)
        user.queue.put_question(question)
        assert user.queue.take(unwatched) == [question] and question.frame_result is None

    def test_question_with_its_own_images_does_not_make_an_idle_node_process_images(self):
        user = QueueUser()
        user.put_image(0)
        question = PendingQuestion(lambda result: result, False, needs_frame=False)
        user.queue.put_question(question)
        assert user.queue.take(unwatched) == [question]
        assert user.has_nothing_to_do(unwatched)

    def test_close_releases_thread_and_questions(self):
        user = QueueUser()
        question = user.ask()
        thread = threading.Thread(target=user.queue.take, args=(watched,))
        thread.start()
        user.queue.close()
        thread.join(5)
        assert not thread.is_alive()
        with pytest.raises((QueueClosed, CancelledError)):
            question.future.result(0)
        with pytest.raises(QueueClosed):
            user.ask()


def image_at(stamp_ns: int = START_NS, frame_id: str = "camera", arrived_ns: int = 0) -> CameraImage:
    return CameraImage(message(stamp_ns, frame_id), stamp_ns, arrived_ns, stamp_ns, 1)


class TestEarlierImages:
    @staticmethod
    def user():
        user = QueueUser(history_s=1.0)
        user.queue.put_info(message(START_NS))
        return user

    def test_earlier_image_is_found_by_its_time_also_while_nobody_watches(self):
        user = self.user()
        for at_ms in range(0, 2001, 100):
            user.put_image(at_ms)
        found = user.queue.find_earlier(user.queue.newest, 600_000_000)
        assert abs(user.ms_of(found) - 1400) <= 100 and found.info is not None

    def test_earlier_images_are_forgotten_when_time_goes_back(self):
        user = self.user()
        for at_ms in (60_000, 60_500, 5):
            user.put_image(at_ms)
        assert user.queue.find_earlier(user.queue.newest, 0) is None

    def test_earlier_image_has_the_calibration_with_its_own_stamp(self):
        user = self.user()
        for at_ms in (100, 600, 1100):
            user.put_image(at_ms)
            user.queue.put_info(message(START_NS + at_ms * 1_000_000))
        found = user.queue.find_earlier(user.queue.newest, 500_000_000)
        assert found.info.header.stamp == found.message.header.stamp

    def test_no_earlier_images_are_kept_by_default(self):
        user = QueueUser()
        for at_ms in (0, 500, 1000):
            user.put_image(at_ms)
        assert user.queue.find_earlier(user.queue.newest, 0) is None


class TestCameraInfoSync:
    def sync(self, *infos) -> CameraInfoSync:
        sync = CameraInfoSync()
        for info in infos:
            sync.add(info)
        return sync

    def test_calibration_with_the_same_stamp_is_preferred_to_a_later_one(self):
        own, later = message(START_NS), message(START_NS + 5)
        assert self.sync(own, later).pair(image_at(), 0).info is own

    def test_newest_calibration_is_used_otherwise(self):
        old, new = message(START_NS - 2 * NS_PER_S), message(START_NS - NS_PER_S)
        assert self.sync(old, new).pair(image_at(), 0).info is new

    def test_calibration_of_another_camera_is_not_used_and_its_frame_id_is_given(self):
        image = self.sync(message(START_NS, "right")).pair(image_at(frame_id="left"), 0)
        assert image.info is None and image.other_frame_id == "right"

    def test_a_slash_in_front_of_a_frame_id_does_not_count(self):
        info = message(START_NS, "/left")
        assert self.sync(info).pair(image_at(frame_id="left"), 0).info is info
        assert self.sync(message(START_NS, "right")).pair(image_at(frame_id="/left"), 0).info is None

    def sure(self, *infos) -> CameraInfoSync:
        sync = self.sync(*infos)
        sync.is_sure_of_source = lambda: True
        return sync

    def test_calibration_of_the_only_publisher_is_used_whatever_its_frame_id(self):
        old, own, later = (
            message(START_NS - 9, "optical"),
            message(START_NS, "optical"),
            message(START_NS + 9, "optical"),
        )
        assert self.sure(old, own, later).pair(image_at(frame_id="left"), 0).info is own
        assert self.sure(old).pair(image_at(frame_id="left"), 0).info is old

    def test_calibrations_of_two_cameras_from_one_publisher_are_not_mixed_up(self):
        sync = self.sure(message(START_NS, "right"), message(START_NS, "rear"))
        assert sync.pair(image_at(frame_id="left"), 0).info is None

    def test_an_image_of_another_camera_gets_no_calibration_where_frame_ids_agreed_before(self):
        own = message(START_NS, "left")
        sync = self.sure(own)
        assert sync.pair(image_at(frame_id="left"), 0).info is own
        assert sync.find(image_at(frame_id="right")).info is None

    def test_calibration_of_this_camera_is_found_among_others(self):
        own, other = message(START_NS - 5, "left"), message(START_NS, "right")
        assert self.sync(own, other).pair(image_at(frame_id="left"), 0).info is own

    def test_empty_frame_id_agrees_with_every_camera(self):
        info = message(START_NS, "")
        assert self.sync(info).pair(image_at(frame_id="left"), 0).info is info

    def test_image_waits_for_its_own_calibration_if_the_previous_one_had_one(self):
        sync = self.sync(message(START_NS))
        sync.pair(image_at(), 0)
        following = image_at(START_NS + 10, arrived_ns=1000)
        assert sync.pair(following, 2000) is None
        own = message(START_NS + 10)
        sync.add(own)
        assert sync.pair(following, 2000).info is own

    def test_image_waits_for_its_own_calibration_only_for_a_limited_time(self):
        sync = self.sync(message(START_NS))
        sync.pair(image_at(), 0)
        following = image_at(START_NS + 10, arrived_ns=1000)
        assert sync.pair(following, 2000) is None
        assert sync.pair(following, 1000 + INFO_TIMEOUT_NS) is not None

    def test_newer_images_do_not_prolong_the_wait_when_calibrations_have_stopped(self):
        sync = self.sync(message(START_NS))
        sync.pair(image_at(), 0)
        half_ns = INFO_TIMEOUT_NS // 2
        assert sync.pair(image_at(START_NS + 10, arrived_ns=0), 0) is None
        assert sync.pair(image_at(START_NS + 20, arrived_ns=half_ns), half_ns) is None
        assert sync.pair(image_at(START_NS + 30, arrived_ns=INFO_TIMEOUT_NS), INFO_TIMEOUT_NS) is not None
        assert sync.pair(image_at(START_NS + 40, arrived_ns=INFO_TIMEOUT_NS + 1), INFO_TIMEOUT_NS + 1) is not None

    def test_calibration_that_comes_too_late_for_its_image_makes_the_next_image_wait(self):
        sync = self.sync(message(START_NS - NS_PER_S))
        sync.pair(image_at(), 0)
        sync.add(message(START_NS))
        assert sync.pair(image_at(START_NS + 10, arrived_ns=1000), 1001) is None

    def test_image_does_not_wait_if_calibrations_come_rarely(self):
        sync = self.sync(message(START_NS - NS_PER_S))
        sync.pair(image_at(), 0)
        assert sync.pair(image_at(START_NS + 10, arrived_ns=1000), 1001) is not None


class TestProblemLog:
    def test_each_reason_is_always_counted_but_logged_only_every_few_seconds(self):
        now_s, logged = [0.0], []
        problems = ProblemLog(logged.append, clock=lambda: now_s[0])
        for _ in range(4):
            problems.report("bad image", "a picture is bad")
        problems.report("no camera_info", "where is it")
        assert logged == ["a picture is bad", "where is it"]
        now_s[0] = LOG_PERIOD_S
        problems.report("bad image", "another is bad")
        assert logged[2:] == ["another is bad (3 more like this before)"]
        assert problems.counts == {"bad image": 5, "no camera_info": 1}
        now_s[0] += 3
        assert (problems.last_message, problems.quiet_s) == ("another is bad", 3.0)

    def test_problem_that_lasts_is_logged_less_and_less_often_until_it_has_ended(self):
        now_s, logged_s = [0.0], []
        problems = ProblemLog(lambda line: logged_s.append(now_s[0]), clock=lambda: now_s[0])
        for _ in range(2 * 3600):
            problems.report("no image", "nobody publishes it")
            now_s[0] += 1.0
        assert logged_s[:5] == [0.0, 5.0, 15.0, 35.0, 75.0] and len(logged_s) < 20
        assert max(after - before for before, after in itertools.pairwise(logged_s)) == MAX_LOG_PERIOD_S
        problems.settle("no image")
        problems.report("no image", "nobody publishes it")
        assert logged_s[-1] == now_s[0]
        now_s[0] += FORGOTTEN_S + 1.0
        problems.report("no image", "nobody publishes it")
        assert logged_s[-1] == now_s[0]

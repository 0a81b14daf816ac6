"""Frames never queue, questions wait their turn, and each image gets the calibration that is its own."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from types import SimpleNamespace

import pytest

from depthlm_ros.ros.camera_info_sync import NS_PER_S, PATIENCE_NS, Arrival, Pair, Pairing
from depthlm_ros.ros.request_queue import Busy, Closed, Inbox, Questions, Ticket
from depthlm_ros.ros.statistics import REPEAT_AFTER_S, Troubles

START_NS = 1_000 * NS_PER_S


def message(stamp_ns: int, frame_id: str = "camera", **fields) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id=frame_id), **fields)


def watched() -> bool:
    return True


def unwatched() -> bool:
    return False


class Desk:
    """An inbox, and what its worker does: take work, remember the look."""

    def __init__(self, most: int = 4) -> None:
        self.logged: list[str] = []
        self.troubles = Troubles(self.logged.append)
        self.inbox = Inbox(self.troubles, most)
        self.inbox.put_info(message(START_NS - NS_PER_S))

    def image(self, at_ms: int, clock_ms: int | None = None) -> None:
        stamp_ns = START_NS + at_ms * 1_000_000
        clock_ns = stamp_ns if clock_ms is None else START_NS + clock_ms * 1_000_000
        self.inbox.put_image(message(stamp_ns), clock_ns)

    def ask(self, fresh: bool = False, at_ms: int = 0) -> Ticket:
        ticket = Ticket(lambda seen: seen.image.stamp_ns, fresh, START_NS + at_ms * 1_000_000)
        self.inbox.ask(ticket)
        return ticket

    def work(self, is_watched=watched) -> tuple[str, int]:
        """The next work, done: ("look" or "answer", stamp of the image in ms)."""
        work = self.inbox.next(is_watched)
        if isinstance(work, Pair):
            self.inbox.done(SimpleNamespace(image=work.image))
            return "look", self._ms(work.image)
        assert isinstance(work, Questions)
        for ticket in work.tickets:
            if ticket.future.set_running_or_notify_cancel():
                ticket.future.set_result(ticket.work(work.seen))
        return "answer", self._ms(work.seen.image)

    def has_nothing_to_do(self, is_watched=watched) -> bool:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.inbox.next, is_watched)
            try:
                waiting.result(0.15)
            except NotYet:
                return True
            finally:
                self.inbox.close()
        return False

    @staticmethod
    def _ms(image: Arrival) -> int:
        return (image.stamp_ns - START_NS) // 1_000_000


class TestImages:
    def test_the_newest_takes_the_place_of_those_that_waited_and_they_are_counted(self):
        desk = Desk()
        desk.image(0)
        assert desk.work() == ("look", 0)
        for at_ms in (10, 20, 30):
            desk.image(at_ms)
        assert desk.work() == ("look", 30)
        assert (desk.inbox.received, desk.inbox.dropped) == (4, 2)

    def test_each_is_looked_at_once(self):
        desk = Desk()
        desk.image(0)
        desk.work()
        assert desk.has_nothing_to_do()

    def test_nobody_watches_nobody_looks(self):
        desk = Desk()
        desk.image(0)
        assert desk.has_nothing_to_do(unwatched)

    def test_what_nobody_wanted_is_not_counted_as_dropped(self):
        desk = Desk()
        for at_ms in range(5):
            desk.image(at_ms)
        assert desk.inbox.dropped == 0

    def test_without_any_calibration_an_image_waits(self):
        desk = Desk()
        desk.inbox = Inbox(desk.troubles, 4)
        desk.image(0)
        assert desk.has_nothing_to_do()

    def test_a_late_image_is_left_out_and_said(self):
        desk = Desk()
        desk.image(100)
        desk.image(60)
        assert desk.work() == ("look", 100)
        assert desk.troubles.counts == {"late image": 1} and "40.0 ms older" in desk.logged[0]

    def test_when_time_begins_anew_so_does_the_node(self):
        desk = Desk()
        desk.image(60_000)
        desk.work()
        desk.image(5)
        desk.inbox.put_info(message(START_NS))
        assert desk.work() == ("look", 5)
        assert desk.troubles.counts == {"time went back": 1} and "60.0 s" in desk.logged[0]

    def test_a_look_that_began_before_time_went_back_answers_nothing(self):
        desk = Desk()
        desk.image(60_000)
        pair = desk.inbox.next(watched)
        desk.inbox.forget("the clock went back")
        desk.inbox.done(SimpleNamespace(image=pair.image))
        assert not desk.inbox.can_answer


class TestQuestions:
    def test_wait_for_the_first_look_while_it_is_under_way_but_not_for_one_that_failed(self):
        desk = Desk()
        desk.image(0)
        desk.inbox.next(watched)
        assert desk.inbox.can_answer
        assert desk.has_nothing_to_do()  # the worker is back without a look
        assert not desk.inbox.can_answer

    def test_are_answered_from_the_last_look_while_the_stream_is_watched(self):
        desk = Desk()
        desk.image(0)
        desk.work()
        desk.image(10)
        ticket = desk.ask()
        assert desk.work() == ("answer", 0)
        assert ticket.future.result(0) == START_NS
        assert desk.work() == ("look", 10)

    def test_get_the_newest_image_where_nobody_watches(self):
        desk = Desk()
        desk.image(0)
        desk.work()
        desk.image(10)
        desk.ask()
        assert desk.work(unwatched) == ("look", 10)
        desk.image(20)
        assert desk.work(unwatched) == ("answer", 10)
        assert desk.has_nothing_to_do(unwatched)

    def test_and_images_take_turns_where_both_always_wait(self):
        desk = Desk(most=8)
        desk.image(0)
        desk.work()
        done = []
        for turn in range(1, 7):
            desk.image(10 * turn)
            desk.ask()
            done.append(desk.work()[0])
        assert done == ["answer", "look"] * 3

    def test_that_want_a_fresh_image_wait_for_one_taken_after_the_request(self):
        desk = Desk()
        desk.image(0)
        desk.work()
        desk.image(10)
        ticket = desk.ask(fresh=True, at_ms=30)
        assert desk.work() == ("look", 10)
        desk.image(20)  # taken before the request, arrives after it
        assert desk.work() == ("look", 20)
        assert not ticket.future.done()
        desk.image(40)
        assert [desk.work(), desk.work()] == [("look", 40), ("answer", 40)]

    def test_fresh_means_later_arrival_where_the_camera_has_a_clock_of_its_own(self):
        desk = Desk()
        desk.image(0, clock_ms=9_000_000)
        ticket = desk.ask(fresh=True, at_ms=9_000_000)
        assert desk.work() == ("look", 0)
        desk.image(10, clock_ms=9_000_010)
        desk.work()
        assert desk.work() == ("answer", 10)
        assert ticket.future.result(0) == START_NS + 10_000_000

    def test_an_image_from_before_is_not_worth_a_look_for_a_fresh_question(self):
        desk = Desk()
        desk.image(0)
        desk.ask(fresh=True, at_ms=5)
        assert desk.has_nothing_to_do(unwatched)

    def test_several_are_answered_in_one_round(self):
        desk = Desk()
        desk.image(0)
        desk.work()
        tickets = [desk.ask() for _ in range(3)]
        desk.work()
        assert all(ticket.future.done() for ticket in tickets)

    def test_too_many_are_refused_until_one_is_done(self):
        inbox = Desk(most=2).inbox
        with inbox.place():
            with inbox.place(), pytest.raises(Busy), inbox.place():
                pass
            with inbox.place():
                pass

    def test_an_image_that_is_too_old_for_them_does_not_wake_the_worker_again_and_again(self):
        desk = Desk()
        desk.image(0)
        desk.ask(fresh=True, at_ms=5)
        wakes = []
        assert desk.has_nothing_to_do(lambda: bool(wakes.append(0)))
        assert len(wakes) <= 3

    def test_one_that_was_given_up_costs_no_work(self):
        desk = Desk()
        desk.image(0)
        desk.work()
        desk.ask().future.cancel()
        assert desk.has_nothing_to_do()

    def test_that_bring_their_own_images_need_none_of_the_camera_s(self):
        desk = Desk()
        ticket = Ticket(lambda seen: seen, False, START_NS, needs_look=False)
        desk.inbox.ask(ticket)
        work = desk.inbox.next(unwatched)
        assert isinstance(work, Questions) and work.tickets == [ticket] and work.seen is None

    def test_that_bring_their_own_images_do_not_make_an_idle_node_look(self):
        desk = Desk()
        desk.image(0)
        desk.inbox.ask(Ticket(lambda seen: seen, False, START_NS, needs_look=False))
        assert isinstance(desk.inbox.next(unwatched), Questions)
        assert desk.has_nothing_to_do(unwatched)

    def test_closing_lets_everybody_go(self):
        desk = Desk()
        ticket = desk.ask()
        worker = threading.Thread(target=desk.inbox.next, args=(watched,))
        worker.start()
        desk.inbox.close()
        worker.join(5)
        assert not worker.is_alive()
        with pytest.raises((Closed, CancelledError)):
            ticket.future.result(0)
        with pytest.raises(Closed):
            desk.ask()


def arrival(stamp_ns: int = START_NS, frame_id: str = "camera", arrived_ns: int = 0) -> Arrival:
    return Arrival(message(stamp_ns, frame_id), stamp_ns, arrived_ns, stamp_ns, 1)


class TestEarlierImages:
    @staticmethod
    def desk():
        desk = Desk()
        desk.inbox = Inbox(desk.troubles, 4, history_s=1.0)
        desk.inbox.put_info(message(START_NS))
        return desk

    def test_are_found_by_their_time_before_an_image_also_where_nobody_watches(self):
        desk = self.desk()
        for at_ms in range(0, 2001, 100):
            desk.image(at_ms)
        found = desk.inbox.before(desk.inbox.newest, 600_000_000)
        assert abs(desk._ms(found.image) - 1400) <= 100 and found.info is not None

    def test_are_forgotten_when_time_goes_back(self):
        desk = self.desk()
        for at_ms in (60_000, 60_500, 5):
            desk.image(at_ms)
        assert desk.inbox.before(desk.inbox.newest, 0) is None

    def test_carry_the_calibration_of_their_own_stamp(self):
        desk = self.desk()
        for at_ms in (100, 600, 1100):
            desk.image(at_ms)
            desk.inbox.put_info(message(START_NS + at_ms * 1_000_000))
        found = desk.inbox.before(desk.inbox.newest, 500_000_000)
        assert found.info.header.stamp == found.image.message.header.stamp

    def test_are_not_kept_unless_wanted(self):
        desk = Desk()
        for at_ms in (0, 500, 1000):
            desk.image(at_ms)
        assert desk.inbox.before(desk.inbox.newest, 0) is None


class TestPairing:
    def pairing(self, *infos) -> Pairing:
        pairing = Pairing()
        for info in infos:
            pairing.keep(info)
        return pairing

    def test_the_calibration_of_the_same_stamp_is_taken_even_if_a_later_one_is_there(self):
        own, later = message(START_NS), message(START_NS + 5)
        assert self.pairing(own, later).pair(arrival()).info is own

    def test_otherwise_the_latest_is_taken(self):
        old, new = message(START_NS - 2 * NS_PER_S), message(START_NS - NS_PER_S)
        assert self.pairing(old, new).pair(arrival()).info is new

    def test_that_of_another_camera_is_not_taken_and_named(self):
        pair = self.pairing(message(START_NS, "right")).pair(arrival(frame_id="left"))
        assert pair.info is None and pair.other_frame_id == "right"

    def test_one_of_this_camera_is_found_among_others(self):
        own, other = message(START_NS - 5, "left"), message(START_NS, "right")
        assert self.pairing(own, other).pair(arrival(frame_id="left")).info is own

    def test_an_empty_frame_id_contradicts_nothing(self):
        info = message(START_NS, "")
        assert self.pairing(info).pair(arrival(frame_id="left")).info is info

    def test_an_image_waits_for_its_own_calibration_if_the_one_before_had_one(self):
        pairing = self.pairing(message(START_NS))
        pairing.pair(arrival())
        following = arrival(START_NS + 10, arrived_ns=1000)
        assert not pairing.ready(following, 2000)
        assert pairing.ready(following, 1000 + PATIENCE_NS)
        pairing.keep(message(START_NS + 10))
        assert pairing.ready(following, 2000)

    def test_newer_images_do_not_prolong_the_wait_when_calibrations_have_stopped(self):
        pairing = self.pairing(message(START_NS))
        pairing.pair(arrival())
        half_ns = PATIENCE_NS // 2
        assert not pairing.ready(arrival(START_NS + 10, arrived_ns=0), 0)
        assert not pairing.ready(arrival(START_NS + 20, arrived_ns=half_ns), half_ns)
        newest = arrival(START_NS + 30, arrived_ns=PATIENCE_NS)
        assert pairing.ready(newest, PATIENCE_NS)
        pairing.pair(newest)
        assert pairing.ready(arrival(START_NS + 40, arrived_ns=PATIENCE_NS + 1), PATIENCE_NS + 1)

    def test_a_calibration_that_came_too_late_for_its_image_makes_the_next_image_wait(self):
        pairing = self.pairing(message(START_NS - NS_PER_S))
        pairing.pair(arrival())
        pairing.keep(message(START_NS))
        assert not pairing.ready(arrival(START_NS + 10, arrived_ns=1000), 1001)

    def test_an_image_of_a_camera_that_calibrates_seldom_does_not_wait(self):
        pairing = self.pairing(message(START_NS - NS_PER_S))
        pairing.pair(arrival())
        assert pairing.ready(arrival(START_NS + 10, arrived_ns=1000), 1001)


class TestTroubles:
    def test_each_reason_is_logged_at_most_every_few_seconds_and_always_counted(self):
        now_s, logged = [0.0], []
        troubles = Troubles(logged.append, clock=lambda: now_s[0])
        for _ in range(4):
            troubles.note("bad image", "a picture is bad")
        troubles.note("no camera_info", "where is it")
        assert logged == ["a picture is bad", "where is it"]
        now_s[0] = REPEAT_AFTER_S
        troubles.note("bad image", "another is bad")
        assert logged[2:] == ["another is bad (3 more like this before)"]
        assert troubles.counts == {"bad image": 5, "no camera_info": 1}
        now_s[0] += 3
        assert (troubles.last, troubles.quiet_s) == ("another is bad", 3.0)

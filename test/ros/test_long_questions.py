# SPDX-License-Identifier: Apache-2.0
"""The action ask_spatial: words as they come, a cancel within one decoding step, and other questions meanwhile.

The node, its executor and the graph are real; the model's replies are scripted, at a given pace.
"""

import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.action")

import rclpy  # noqa: E402
from action_msgs.msg import GoalStatus  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.executors import MultiThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from support.paths import ROOT  # noqa: E402
from support.ros_rig import Rig  # noqa: E402
from support.scripted_backend import TOKENIZER, scripted_model  # noqa: E402

from depthlm_ros.action import AskSpatial  # noqa: E402
from depthlm_ros.model_files.tokenizer_files import read_tokenizer  # noqa: E402
from depthlm_ros.ros import node as node_module  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.ros.child_process import graph_environment  # noqa: E402
from depthlm_ros.ros.node import DepthNode  # noqa: E402
from depthlm_ros.ros.ros_process import Spinner  # noqa: E402
from depthlm_ros.srv import SpatialQuery  # noqa: E402

Status = AskSpatial.Result
SHORT, LONG = "How far is the box?", "Describe the room at length."
TOKENS = 500
_tokenizer = read_tokenizer(TOKENIZER)
_ids = _tokenizer.encode("There is a chair and a table and a lamp. " * 100, add_special_tokens=False).ids
SHORT_REPLY, LONG_REPLY = "It is 2.00 meters away.", _tokenizer.decode(_ids[:TOKENS]).strip()
STEP_S = 0.02


def reply_to(question: str) -> str:
    return LONG_REPLY if LONG in question else SHORT_REPLY


class Goal:
    """A goal that was sent. heard: the words of its feedback. result: that of the goal, once it has ended."""

    def __init__(self, rig, client, **fields) -> None:
        self._rig, self.heard = rig, []
        rig.wait(client.server_is_ready, "action server")
        sent = client.send_goal_async(
            AskSpatial.Goal(**fields), lambda message: self.heard.append(message.feedback.text)
        )
        rig.wait(sent.done, "reply to the goal")
        self.handle = sent.result()
        self._result = self.handle.get_result_async() if self.handle.accepted else None

    def is_done(self) -> bool:
        return self._result.done()

    def finish(self):
        """Returns the state (of GoalStatus) and the result."""
        self._rig.wait(self._result.done, "result of the goal", patience_s=90.0)
        return self._result.result().status, self._result.result().result

    def wait_for_words(self) -> str:
        """Returns the newest words, when there are some that have grown."""
        self._rig.wait(lambda: len(self.heard) > 2, "feedback")
        return self.heard[-1]


class SlowNode:
    """An active node in this process whose model takes STEP_S for each token, and its client."""

    def __init__(self, rig, monkeypatch) -> None:
        self.rig, self.model = rig, scripted_model("vlm3-object", reply_to)
        self.model.backend.step_s = STEP_S
        monkeypatch.setattr(node_module.ModelLoader, "load", lambda loader, parameters: self.model)
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        # On a loaded machine the images of a test are old.
        values = {"mode": "questions", "max_waiting_questions": 6, "query_timeout_s": 60.0, "stale_after_s": 600.0}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = DepthNode(context=self.context, namespace=rig.namespace, parameter_overrides=overrides)
        self.executor = MultiThreadedExecutor(num_threads=10, context=self.context)
        self.executor.add_node(self.node)
        self.spinner = Spinner(self.executor, self.node.report)
        self.spinner.start()
        self.client = ActionClient(rig.node, AskSpatial, "ask_spatial")

    def activate(self) -> None:
        """Configures and activates the node, and lets it see one image."""
        assert self.node.trigger_configure() == self.node.trigger_activate() == node_module.SUCCESS
        self.rig.wait(lambda: self.rig.node.count_subscribers(f"{self.rig.namespace}/image"), "subscriber")

        def is_answered() -> bool:
            self.rig.shoot()
            return self.ask(SHORT).status == SpatialQuery.Response.OK

        self.rig.wait(is_answered, "answer")

    def ask(self, question: str) -> SpatialQuery.Response:
        return self.rig.ask("spatial_query", SpatialQuery.Request(question=question))

    def send(self, question: str = LONG, **fields) -> Goal:
        return Goal(self.rig, self.client, question=question, **fields)

    def close(self) -> None:
        self.node.release()
        self.spinner.end()
        self.client.destroy()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def slow(tmp_path, monkeypatch):
    rig = Rig(tmp_path / "node.log")
    slow = SlowNode(rig, monkeypatch)
    yield slow
    slow.close()
    rig.close()


def test_the_words_of_a_reply_of_500_tokens_come_as_feedback_and_the_service_answers_meanwhile(slow):
    slow.activate()
    steps, short_steps = slow.model.backend.steps, len(slow.model.tokenizer.encode(SHORT_REPLY).ids) + 1
    goal = slow.send()
    goal.wait_for_words()
    answers, started_s = [], time.monotonic()
    while not goal.is_done() and len(answers) < 3:
        answers.append(slow.ask(SHORT))
    answered_s = time.monotonic() - started_s
    assert len(answers) == 3 and not goal.is_done(), f"3 short answers took {answered_s:.1f} s"
    assert {(answer.status, answer.answer) for answer in answers} == {(Status.OK, SHORT_REPLY)}
    state, result = goal.finish()
    assert (state, result.status, result.success) == (GoalStatus.STATUS_SUCCEEDED, Status.OK, True)
    assert slow.model.backend.steps - steps - 3 * short_steps >= TOKENS
    assert result.answer == LONG_REPLY and result.model == "vlm3-object" and result.latency > TOKENS * STEP_S
    assert len(goal.heard) > 20 and len(set(goal.heard)) == len(goal.heard)
    assert all(LONG_REPLY.startswith(words.rstrip()) for words in goal.heard)
    assert all(later.startswith(earlier) for earlier, later in pairwise(goal.heard))


def test_a_goal_has_the_answer_of_the_service(slow):
    slow.activate()
    state, result = slow.send(SHORT).finish()
    answer = slow.ask(SHORT)
    assert state == GoalStatus.STATUS_SUCCEEDED and result.success
    for name in SpatialQuery.Response.get_fields_and_field_types():
        if name != "latency":
            assert str(getattr(result, name)) == str(getattr(answer, name)), name


def test_goal_and_result_have_the_fields_and_numbers_of_the_service():
    for own, of_service in ((AskSpatial.Goal, SpatialQuery.Request), (AskSpatial.Result, SpatialQuery.Response)):
        assert own.get_fields_and_field_types() == of_service.get_fields_and_field_types()
    codes = SpatialQuery.Response
    names = [name for name in dir(type(codes)) if name.isupper() and type(getattr(codes, name)) is int]
    assert len(names) == 10 and all(getattr(Status, name) == getattr(codes, name) for name in names)


def test_a_cancel_takes_effect_within_one_step_and_the_next_question_is_served_at_once(slow):
    slow.activate()
    served_s = []
    for _ in range(5):  # a loaded machine may be slow once
        slow.model.backend.step_s = 0.1
        goal = slow.send()
        goal.wait_for_words()
        cancelled_s = time.monotonic()
        slow.rig.wait(goal.handle.cancel_goal_async().done, "reply to the cancel")
        steps = slow.model.backend.steps
        state, result = goal.finish()
        assert slow.model.backend.steps - steps <= 1
        assert (state, result.status, result.success) == (GoalStatus.STATUS_CANCELED, Status.CANCELLED, False)
        assert result.message == "the goal was cancelled." and result.value != result.value
        assert result.answer.startswith(goal.heard[-1]) and LONG_REPLY.startswith(result.answer)
        slow.model.backend.step_s = 0.0
        assert slow.ask(SHORT).status == Status.OK
        served_s.append(time.monotonic() - cancelled_s)
        if served_s[-1] < 0.5:
            break
    assert min(served_s) < 0.5, f"the question after a cancel was served after {served_s} s"
    assert slow.send(SHORT).finish()[0] == GoalStatus.STATUS_SUCCEEDED


def test_a_goal_that_waits_for_a_fresh_image_can_be_cancelled(slow):
    slow.activate()
    goal = slow.send(SHORT, fresh=True, timeout_s=60.0)
    slow.rig.wait(goal.handle.cancel_goal_async().done, "reply to the cancel")
    state, result = goal.finish()
    assert (state, result.status) == (GoalStatus.STATUS_CANCELED, Status.CANCELLED) and result.latency < 30
    waiting = slow.send(SHORT, fresh=True, timeout_s=60.0)
    assert not waiting.is_done()
    slow.rig.wait(lambda: slow.rig.shoot() and waiting.is_done(), "answer from a fresh image")
    assert waiting.finish()[1].status == Status.OK


def test_every_goal_of_a_burst_gets_a_result(slow):
    """The client's queues are long enough here; those of the node must be, too."""
    slow.activate()
    kept = QoSProfile(depth=100)
    profiles = {f"{name}_service_qos_profile": kept for name in ("goal", "result", "cancel")}
    client = ActionClient(slow.rig.node, AskSpatial, "ask_spatial", **profiles)
    slow.rig.wait(client.server_is_ready, "action server")
    sent = [client.send_goal_async(AskSpatial.Goal(question=SHORT)) for _ in range(40)]
    slow.rig.wait(lambda: all(each.done() for each in sent), "replies to all goals", patience_s=60.0)
    results = [each.result().get_result_async() for each in sent]
    slow.rig.wait(lambda: all(each.done() for each in results), "results of all goals", patience_s=60.0)
    codes = [each.result().result.status for each in results]
    assert set(codes) <= {Status.OK, Status.BUSY} and codes.count(Status.OK) >= 1
    client.destroy()


def test_several_goals_run_at_the_same_time_and_more_than_may_wait_are_refused_with_the_reason(slow):
    slow.activate()
    slow.model.backend.step_s = 0.05
    goals = [slow.send() for _ in range(6)]
    for goal in goals:
        goal.wait_for_words()
    state, result = slow.send(SHORT).finish()
    assert (state, result.status) == (GoalStatus.STATUS_ABORTED, Status.BUSY) and "6 questions" in result.message
    goals[2].handle.cancel_goal_async()
    assert goals[2].finish()[0] == GoalStatus.STATUS_CANCELED
    assert not any(goal.is_done() for goal in goals if goal is not goals[2])
    assert slow.ask(SHORT).status == Status.OK
    slow.model.backend.step_s = 0.0
    others = [goal.finish() for goal in goals if goal is not goals[2]]
    assert {(state, result.answer) for state, result in others} == {(GoalStatus.STATUS_SUCCEEDED, LONG_REPLY)}


def test_goals_of_a_node_that_is_not_active_are_refused_with_the_reason(slow):
    state, result = slow.send(SHORT).finish()
    assert (state, result.status) == (GoalStatus.STATUS_ABORTED, Status.NOT_ACTIVE)
    assert "not active" in result.message and "ros2 lifecycle set" in result.message
    slow.activate()
    assert slow.send(SHORT).finish()[0] == GoalStatus.STATUS_SUCCEEDED


def test_a_goal_ends_when_its_node_is_deactivated_and_the_node_serves_again_when_it_is_activated(slow):
    slow.activate()
    slow.model.backend.step_s = 0.1
    goal = slow.send()
    goal.wait_for_words()
    assert slow.node.trigger_deactivate() == node_module.SUCCESS
    steps = slow.model.backend.steps
    state, result = goal.finish()
    assert slow.model.backend.steps - steps <= 1
    assert (state, result.status) == (GoalStatus.STATUS_ABORTED, Status.NOT_ACTIVE)
    assert result.message == "the node was deactivated before the answer." and LONG_REPLY.startswith(result.answer)
    assert slow.send(SHORT).finish()[1].status == Status.NOT_ACTIVE
    slow.model.backend.step_s = 0.0
    assert slow.node.trigger_activate() == node_module.SUCCESS
    slow.rig.wait(lambda: slow.rig.shoot() and slow.ask(SHORT).success, "answer")
    assert slow.send(SHORT).finish()[0] == GoalStatus.STATUS_SUCCEEDED


def test_a_goal_ends_when_its_time_is_over_and_says_so(slow):
    slow.activate()
    slow.model.backend.step_s = 0.05
    state, result = slow.send(timeout_s=1.0).finish()
    assert (state, result.status) == (GoalStatus.STATUS_ABORTED, Status.TIMEOUT) and "within 1 s" in result.message
    assert 0.9 < result.latency < 20 and result.answer and LONG_REPLY.startswith(result.answer)


def test_a_goal_whose_points_cannot_be_moved_says_so_and_keeps_the_words(slow):
    slow.activate()
    state, result = slow.send(SHORT, target_frame="no_such_frame").finish()
    assert (state, result.status) == (GoalStatus.STATUS_ABORTED, Status.BAD_REQUEST)
    assert "no_such_frame" in result.message and result.answer == SHORT_REPLY and result.header.frame_id == "camera"


def test_the_client_in_the_documentation_hears_the_first_sentence_and_stops(slow):
    """In a process of its own, in the namespace of the node."""
    slow.activate()
    (client,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ANSWERS.md").read_text(), re.DOTALL)
    client = client.replace("Describe what is on the table.", LONG)
    arguments = ["--ros-args", "-r", f"__ns:={slow.rig.namespace}"]
    command = [sys.executable, "-c", client.replace("rclpy.init()", f"rclpy.init(args={arguments!r})")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=graph_environment())
    assert done.returncode == 0, done.stderr
    status, answer = done.stdout.split(maxsplit=1)
    assert int(status) == Status.CANCELLED and "the goal was cancelled." in answer
    assert answer.startswith(LONG_REPLY[:20]) and LONG_REPLY not in answer


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"question": ""}, "empty"), ({"question": "far? " * 500}, "2500 characters"), ({"timeout_s": -1.0}, "-1")],
)
def test_a_bad_goal_is_refused_with_its_value(slow, fields, words):
    slow.activate()
    state, result = slow.send(**fields).finish()
    assert (state, result.status) == (GoalStatus.STATUS_ABORTED, Status.BAD_REQUEST) and words in result.message
    assert stamp_ns(result.header) == 0 and result.answer == "" and result.value != result.value
    assert slow.send(SHORT).finish()[0] == GoalStatus.STATUS_SUCCEEDED

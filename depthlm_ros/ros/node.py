# SPDX-License-Identifier: Apache-2.0
"""The depth node: takes a camera's images, gives metric depth, clouds and answers.

    ros2 run depthlm_ros depth_node --ros-args -r image:=/camera/image_raw -r camera_info:=/camera/camera_info
    python -m depthlm_ros.ros.node                (the same without the ros2 command)

A lifecycle node that configures and activates itself unless parameter `autostart` is false. A signal ends its process
in order.

Public names: DepthNode, start, main.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from depthlm_ros.backends.tensorrt.kernel_cache import compile_seconds
from depthlm_ros.errors import SetupError
from depthlm_ros.model import Model
from depthlm_ros.ros import process_memory
from depthlm_ros.ros.active_session import ActiveSession, SessionContext
from depthlm_ros.ros.body_mask import read_body_mask
from depthlm_ros.ros.diagnostics import InputStatus, NodeHealth, diagnostics_message
from depthlm_ros.ros.fastdds import send_in_background, use_large_shared_memory
from depthlm_ros.ros.input_topics import image_topic
from depthlm_ros.ros.model_loading import BuildCancelled, ModelLoader, device_of
from depthlm_ros.ros.parameters import (
    BadParameter,
    Parameters,
    check_changeable,
    check_mode,
    declare_parameters,
    updated_parameters,
    with_declared_types,
)
from depthlm_ros.ros.publishers import Publishers
from depthlm_ros.ros.qos import is_reliability_set
from depthlm_ros.ros.ros_process import Spinner, StopSignal, init_ros
from depthlm_ros.ros.services import create_services
from depthlm_ros.ros.statistics import FrameStatistics, ProblemLog
from depthlm_ros.ros.unused_overrides import unused_parameters, unused_qos_overrides

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
DIAGNOSTICS_PERIOD_S = 1.0
# With every so many diagnostics the node looks for another one of its name.
NAME_CHECK_PERIOD = 5
# rclpy's executor hands a callback out again and again until a thread has begun it, and keeps the interpreter
# meanwhile, for 5 ms at a time by default. `make bench` on two cores: 4 frames a second with that, 30 (all that come)
# with this.
SWITCH_INTERVAL_S = 1e-4
# Threads besides one for each question that may wait: camera, lifecycle, timer, and a question that is refused.
EXTRA_THREADS = 4


class DepthNode(LifecycleNode):
    """The lifecycle node. is_stopping: whether the process ends, so that the build of an engine must be cancelled.

    Raises SetupError for unusable parameters.
    """

    def __init__(self, is_stopping: Callable[[], bool] = lambda: False, **node_arguments: Any) -> None:
        shared_group = MutuallyExclusiveCallbackGroup()
        try:
            Node.__init__(self, "depth_node", **node_arguments)
            LifecycleNodeMixin.__init__(self, callback_group=shared_group)
        except InvalidParameterTypeException as error:  # of parameters that rclpy declares, such as use_sim_time
            raise SetupError(f"a parameter cannot be used: {error}.") from error
        self._separate_services(shared_group)
        self.parameters: Parameters = declare_parameters(self)
        self._image_topic = image_topic(self, self.parameters.image_transport == "compressed")
        self.is_reliability_set = is_reliability_set(self, self._image_topic)
        self._problems = ProblemLog(self.get_logger().warning)
        self._statistics = FrameStatistics()
        self._loader = ModelLoader(self.get_logger().info, lambda: is_stopping() or not self.context.ok())
        self._refusal = ""
        self._is_configured = False  # or being configured
        self._is_new = True  # was never active
        self._model: Model | None = None
        self._output: Publishers | None = None
        self._session: ActiveSession | None = None
        self.add_on_set_parameters_callback(self._set_parameters)
        create_services(
            self, lambda: session.service_context if (session := self._session) else None, self._why_inactive
        )
        for line in unused_parameters(self):
            self.get_logger().warning(line)
        self._start_diagnostics()
        self._watch_clock()

    def report(self, reason: str, message: str) -> None:
        """Counts a problem, and logs it now and then."""
        self._problems.report(reason, message)

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """As rclpy does; but a whole number is taken for a float, which the parameter stays."""
        return super().set_parameters(with_declared_types(parameter_list))

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy does, for its service too; but a whole number is taken for a float, which the parameter stays."""
        return super().set_parameters_atomically(with_declared_types(parameter_list))

    def _separate_services(self, shared_group: CallbackGroup) -> None:
        """Gives each lifecycle service a callback group of its own in place of the shared one.

        Then get_state answers while change_state loads a model or builds an engine. A second transition waits for the
        first, as in other nodes.
        """
        for service in self.services:
            if service.callback_group is shared_group:
                service.callback_group = MutuallyExclusiveCallbackGroup()
                service.callback_group.add_entity(service)

    def _start_diagnostics(self) -> None:
        """Publishes diagnostics as long as the node exists, also while it is not active."""
        self._diagnostics_sent = 0
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._publish_diagnostics,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # simulated time may stand still
        )

    def _watch_clock(self) -> None:
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jumps = self.get_clock().create_jump_callback(back, post_callback=self._clock_went_back)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and offers the topics."""
        self._is_configured = True
        outcome = self._attempt(self._configure)
        self._is_configured = outcome == SUCCESS
        return outcome

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes and starts to process images."""
        super().on_activate(state)
        outcome = self._attempt(self._activate)
        if outcome != SUCCESS:
            self.on_deactivate(state)
        return outcome

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops the processing; the model stays loaded."""
        self._stop_session()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Releases the model and the topics."""
        self.release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Does the same as cleanup, from any state."""
        self.release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Returns to the unconfigured state, so that the node can be configured again."""
        self.release()
        return SUCCESS

    def _attempt(self, step: Callable[[], None]) -> TransitionCallbackReturn:
        """Runs a step of a transition and logs why it failed. (rclpy drops exceptions without a message.)"""
        try:
            step()
        except BuildCancelled as error:
            self.get_logger().info(str(error))
            return FAILURE
        except SetupError as error:
            self._refusal = str(error)
        except Exception as error:  # a transition must end, and its caller must get an answer
            self._refusal = f"{type(error).__name__}: {error}; please report it."
        else:
            self._refusal = ""
            return SUCCESS
        self.get_logger().fatal(self._refusal)
        return FAILURE

    def _configure(self) -> None:
        started_s = time.perf_counter()
        parameters = self.parameters
        mask = read_body_mask(parameters.mask_file)  # before the model, whose loading takes long
        model = self._loader.load(parameters)
        check_mode(model, parameters.mode)
        self._model = model
        self._output = Publishers(self, lambda: self.parameters, self._problems.report)
        self.get_logger().info(
            f"model {model.name} on {model.backend_name}, loaded in {time.perf_counter() - started_s:.2f} s; "
            f"mode {parameters.mode}"
        )

        if mask:
            self.get_logger().info(f"mask_file {mask.path}: the robot's body is {100 * mask.share:.3g} % of the image")

    def _activate(self) -> None:
        assert self._model and self._output, "ROS activates only configured nodes"
        self._session = ActiveSession(
            SessionContext(
                node=self,
                parameters=lambda: self.parameters,
                is_reliability_set=self.is_reliability_set,
                model=self._model,
                publishers=self._output,
                statistics=self._statistics,
                problems=self._problems,
            )
        )
        self._session.start()
        self._is_new = False
        for line in unused_qos_overrides(self):
            self._problems.report("unused parameter", line)
        self.get_logger().info(f"waiting for {self._session.image_topic} and {self._session.info_topic}")

    def _why_inactive(self) -> str:
        """Returns why questions cannot be answered now, and what to do."""
        change = f"`ros2 lifecycle set {self.get_fully_qualified_name()}"
        start_it = f"{change} configure`, then {change} activate`"
        if self._loader.progress:
            return f"the node is not active yet: {self._loader.progress}"
        if self._is_new and self.parameters.autostart and not self._refusal:
            return f"the node is not active yet: it is being started; ask again in a moment, or start it: {start_it}."
        if self._model:
            why = f" ({self._refusal})" if self._refusal else ""
            return f"the node is not active{why}: {change} activate`."
        if self._refusal:
            return f"the node is not active: it could not be configured: {self._refusal} Then {change} configure`."
        return f"the node is not active: {start_it}."

    def _stop_session(self) -> None:
        session, self._session = self._session, None
        if session:
            session.stop()

    def release(self) -> None:
        """Stops the processing and releases everything that configuring acquired."""
        self._stop_session()
        if self._output:
            self._output.destroy(self)
        self._output = self._model = None
        self._is_configured = self._is_new = False
        self._refusal = ""
        process_memory.give_back()

    def _set_parameters(self, news: Sequence[Parameter]) -> SetParametersResult:
        try:
            check_changeable(news, self._is_configured)
            updated = updated_parameters(self.parameters, news)
            if any(new.name == "mask_file" for new in news):
                self._check_mask(updated.mask_file)
            self.parameters = updated
        except SetupError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _check_mask(self, path: str) -> None:
        """Raises BadParameter for a mask that cannot be used, and while the node is active."""
        if self._session:
            raise BadParameter("parameter mask_file cannot be set while the node is active: deactivate it first.")
        read_body_mask(path)

    def _clock_went_back(self, jump: TimeJump) -> None:
        session = self._session  # read once: another thread may deactivate the node now
        if session:
            session.restart("the node's clock went back")

    def _check_name(self) -> None:
        """Reports another node with this node's name: its services and parameters would answer in turn."""
        own = self.get_name(), self.get_namespace()
        if self.get_node_names_and_namespaces().count(own) > 1:
            self._problems.report(
                "two nodes of one name",
                f"there is another node named {self.get_fully_qualified_name()}: both answer the same services and "
                "publish the same topics. End one of them (a node that was killed is seen for some 20 s more), or give "
                "each a namespace (-r __ns:=/left).",
            )

    def _publish_diagnostics(self) -> None:
        self._diagnostics_sent += 1
        if self._diagnostics_sent % NAME_CHECK_PERIOD == 0:
            self._check_name()
        header = Header(stamp=self.get_clock().now().to_msg())
        self._diagnostics.publish(diagnostics_message(header, self.get_fully_qualified_name(), self._health()))

    def _health(self) -> NodeHealth:
        model, session = self._model, self._session
        return NodeHealth(
            state="active" if session else "inactive" if model else "unconfigured",
            model=model.name if model else self.parameters.model,
            backend=model.backend_name if model else self.parameters.backend,
            device=device_of(model) if model else self.parameters.device,
            max_rate_hz=self.parameters.max_rate_hz,
            camera_topic=self._image_topic,
            statistics=self._statistics.snapshot(),
            inputs=session.check_inputs(self.parameters.stale_after_s) if session else InputStatus(),
            problem_age_s=self._problems.quiet_s,
            last_problem=self._problems.last_message,
            problem_counts=self._problems.counts,
            progress=self._loader.progress,
            refusal=self._refusal,
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            scale=session.scale_values() if session else {},
            kernel_compile_s=compile_seconds(),
        )


def start(node: DepthNode) -> bool:
    """Configures and activates the node unless a lifecycle manager does. False: it cannot start; the log says why."""
    if not node.parameters.autostart:
        node.get_logger().info("autostart is false: waiting for a lifecycle manager")
        return True
    return node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS


def run(stop: StopSignal) -> bool:
    """Makes the node and works until `stop` is set. False: it could not start. Raises SetupError."""
    node = DepthNode(lambda: stop.wait(0.0))
    executor = MultiThreadedExecutor(num_threads=node.parameters.max_waiting_questions + EXTRA_THREADS)
    executor.add_node(node)
    spinner = Spinner(executor, node.report, stop.set)
    try:
        spinner.start()  # before the node starts, which may take long: diagnostics report the progress
        started = start(node)
        if started:
            stop.wait()
        return started or stop.wait(0.0)
    finally:
        node.release()
        spinner.end()
        node.destroy_node()


def main(args: list[str] | None = None) -> None:
    """Runs until SIGINT or SIGTERM, which end the process with 0. A set-up that cannot work ends it with 1."""
    stop = StopSignal()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    process_memory.use_few_heaps()
    process_memory.keep_large_buffers_apart()
    use_large_shared_memory()
    send_in_background()
    try:
        init_ros(args)
        started = run(stop)
    except SetupError as error:
        rclpy.logging.get_logger("depth_node").fatal(str(error))
        started = False
    finally:
        rclpy.try_shutdown()
    sys.exit(0 if started else 1)


if __name__ == "__main__":
    main()

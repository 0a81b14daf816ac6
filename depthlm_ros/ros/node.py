"""The depth node: a camera's images in, metric depth, clouds and answers out.

    ros2 run depthlm_ros depth_node --ros-args -r image:=/camera/image_raw -r camera_info:=/camera/camera_info
    python -m depthlm_ros.ros.node                (the same, without the ros2 command)

A lifecycle node that configures and activates itself unless parameter `autostart` is false.

Which of a node's callbacks may run at the same time.

How a node's process runs and ends: signals as an orderly end, and a spin that one failed callback does not end.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import Executor, MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Header

from depthlm_ros.errors import SetupError
from depthlm_ros.model import Model
from depthlm_ros.ros.active_session import Stream, image_topic
from depthlm_ros.ros.diagnostics import Health, diagnostics
from depthlm_ros.ros.fastdds import use_large_shared_memory
from depthlm_ros.ros.model_loading import BrokenOff, Loader
from depthlm_ros.ros.parameters import Parameters, changed, check_mode, declare
from depthlm_ros.ros.publishers import Outlet
from depthlm_ros.ros.qos import is_reliability_given
from depthlm_ros.ros.service_request import Site
from depthlm_ros.ros.services import serve
from depthlm_ros.ros.statistics import Meter, Troubles
from depthlm_ros.ros.tf import Transforms


class OneOfEach(CallbackGroup):
    """Every service or subscription of the group by itself one call at a time, different ones at the same time.

    For the services of a life cycle: get_state answers while change_state loads a model or builds an engine, and a
    second transition waits for the first, as it does in other nodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def can_execute(self, entity: Any) -> bool:
        """Whether it is not running."""
        return id(entity) not in self._running

    def beginning_execution(self, entity: Any) -> bool:
        """Called by the executor; False if it is running already."""
        with self._lock:
            if id(entity) in self._running:
                return False
            self._running.add(id(entity))
            return True

    def ending_execution(self, entity: Any) -> None:
        """Called by the executor."""
        with self._lock:
            self._running.discard(id(entity))


# How long a set flag may go unnoticed.
_LOOK_UP_S = 0.1


class Stop:
    """Set by SIGINT and SIGTERM, or by `set`. To be made in the main thread, in which Python handles signals.

    A flag without a lock: the handler interrupts the main thread anywhere, also where that holds a lock, and would then
    wait for itself. So whoever waits looks up now and then.
    """

    def __init__(self) -> None:
        self._is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.set())

    def set(self) -> None:
        """Stop now; any thread may call it."""
        self._is_set = True

    def wait(self, seconds: float = float("inf")) -> bool:
        """Wait so long, or until it is set; whether it is set."""
        end_s = time.monotonic() + seconds
        while not self._is_set and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOK_UP_S))
        return self._is_set


def spin(executor: Executor, stop: Stop, tell: Callable[[str, str], None]) -> None:
    """Execute callbacks until the executor is shut down; sets `stop` then. tell: reason and message of a trouble."""
    try:
        while not stop.wait(0.0):
            try:
                executor.spin()
            except rclpy_implementation.InvalidHandle:
                # rclpy was collecting what to wait for when another thread destroyed some of it (a subscription, when
                # the node is deactivated); it begins anew.
                continue
            except Exception as error:  # of a callback: it concerns one message or request only
                tell("internal error", f"a callback failed: {type(error).__name__}: {error}; please report it.")
            else:
                return
    finally:
        stop.set()


SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
DIAGNOSTICS_PERIOD_S = 1.0
# rclpy's executor hands a callback out again and again until a thread has begun it, and keeps the interpreter
# meanwhile, for 5 ms at a time by default. `make bench` on two cores: 4 frames a second with that, 30 (all that come)
# with this.
SWITCH_INTERVAL_S = 1e-4
# Beside one thread per question that may wait: camera, life cycle, timer, and a question to be refused.
SPARE_THREADS = 4


class DepthNode(LifecycleNode):
    """is_ending: whether the process ends, so that builds are broken off. Raises SetupError for unusable parameters."""

    def __init__(self, is_ending: Callable[[], bool] = lambda: False, **node_arguments: Any) -> None:
        try:
            Node.__init__(self, "depth_node", **node_arguments)
            # What LifecycleNode does, but with another group: parameters and get_state answer during a transition.
            LifecycleNodeMixin.__init__(self, callback_group=OneOfEach())
        except InvalidParameterTypeException as error:  # of those that rclpy declares, such as use_sim_time
            raise SetupError(f"a parameter cannot be used: {error}.") from error
        self.parameters: Parameters = declare(self)
        self._camera = image_topic(self, self.parameters.image_transport == "compressed")
        self.reliability_is_given = is_reliability_given(self, self._camera)
        self._troubles = Troubles(self.get_logger().warning)
        self._meter = Meter()
        self._transforms = Transforms(self)
        self._loader = Loader(self.get_logger().info, lambda: is_ending() or not self.context.ok())
        self._refusal = ""
        self._model: Model | None = None
        self._outlet: Outlet | None = None
        self._stream: Stream | None = None
        self.add_on_set_parameters_callback(self._set_parameters)
        serve(self, self._site)
        self._report()
        self._watch_time()

    def tell(self, reason: str, message: str) -> None:
        """Count a trouble, and log it now and then."""
        self._troubles.note(reason, message)

    def _report(self) -> None:
        """Diagnostics live as long as the node, and say so while it is not active."""
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._diagnose,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),  # simulated time may stand still
        )

    def _watch_time(self) -> None:
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jumps = self.get_clock().create_jump_callback(back, post_callback=self._time_went_back)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and offer the topics."""
        return self._attempt(self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and begin to look."""
        super().on_activate(state)
        outcome = self._attempt(self._activate)
        if outcome != SUCCESS:
            self.on_deactivate(state)
        return outcome

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop looking; the model stays loaded."""
        self._stop_stream()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of model and topics."""
        self.release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup, from any state."""
        self.release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to the beginning, so that it can be configured again."""
        self.release()
        return SUCCESS

    def _attempt(self, step: Any) -> TransitionCallbackReturn:
        """Run a step of a transition; rclpy itself swallows exceptions without a word."""
        try:
            step()
        except BrokenOff as error:
            self.get_logger().info(str(error))
            return FAILURE
        except SetupError as error:
            self._refusal = str(error)
        except Exception as error:  # a transition must end, and its caller be told
            self._refusal = f"{type(error).__name__}: {error}; please report it."
        else:
            self._refusal = ""
            return SUCCESS
        self.get_logger().fatal(self._refusal)
        return FAILURE

    def _configure(self) -> None:
        started_s = time.perf_counter()
        wanted = self.parameters
        model = self._loader.load(wanted)
        check_mode(model.spec, wanted.mode)
        self._model = model
        self._outlet = Outlet(self, wanted.mode, self._troubles.note)
        self.get_logger().info(
            f"model {self._model.name} on {self._model.backend_name}, loaded in "
            f"{time.perf_counter() - started_s:.2f} s; mode {wanted.mode}"
        )

    def _activate(self) -> None:
        assert self._model and self._outlet, "ROS activates configured nodes only"
        self._stream = Stream(self, self._model, self._outlet, self._meter, self._troubles)
        self._transforms.start()
        self.get_logger().info(f"waiting for {self._stream.image_topic} and {self._stream.info_topic}")

    def _stop_stream(self) -> None:
        stream, self._stream = self._stream, None
        self._transforms.stop()
        if stream:
            stream.stop()

    def release(self) -> None:
        """Stop, and let go of everything that configuring acquired."""
        self._stop_stream()
        if self._outlet:
            self._outlet.destroy(self)
        self._outlet = self._model = None
        self._refusal = ""

    def _set_parameters(self, news: list) -> SetParametersResult:
        try:
            self.parameters = changed(self.parameters, news)
        except SetupError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _time_went_back(self, jump: Any) -> None:
        self._transforms.forget()
        if self._stream:
            self._stream.inbox.forget("the node's clock went back")

    def _site(self) -> Site | None:
        stream, model = self._stream, self._model
        if stream is None or model is None:
            return None
        return Site(model, self._clock_ns, lambda: self.parameters, stream.inbox, self._transforms)

    def _clock_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _diagnose(self) -> None:
        header = Header(stamp=self.get_clock().now().to_msg())
        self._diagnostics.publish(diagnostics(header, self.get_fully_qualified_name(), self._health()))

    def _health(self) -> Health:
        model, stream = self._model, self._stream
        asleep = {"state": "inactive" if model else "unconfigured"}
        facts = stream.check(self.parameters.stale_after_s) if stream else asleep
        return Health(
            model=model.name if model else self.parameters.model,
            backend=model.backend_name if model else self.parameters.backend,
            camera=self._camera,
            reading=self._meter.read(),
            trouble_quiet_s=self._troubles.quiet_s,
            last_trouble=self._troubles.last,
            doing=self._loader.doing,
            refusal=self._refusal,
            troubles=self._troubles.counts,
            **facts,
        )


def start(node: DepthNode) -> bool:
    """Configure and activate, if the node is to do that itself; False if it cannot (the log says why)."""
    if not node.parameters.autostart:
        node.get_logger().info("autostart is false: waiting for a lifecycle manager")
        return True
    return node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS


def run(stop: Stop) -> bool:
    """Make the node and work until `stop` is set; False if it could not start. Raises SetupError."""
    node = DepthNode(lambda: stop.wait(0.0))
    executor = MultiThreadedExecutor(num_threads=node.parameters.max_waiting_questions + SPARE_THREADS)
    executor.add_node(node)
    spinner = threading.Thread(target=spin, args=(executor, stop, node.tell), name="executor", daemon=True)
    try:
        spinner.start()  # before the start, which may take long: diagnostics tell of it
        started = start(node)
        if started:
            stop.wait()
        return started or stop.wait(0.0)
    finally:
        node.release()
        executor.shutdown(timeout_sec=5.0)
        spinner.join()
        node.destroy_node()


def main(args: list[str] | None = None) -> None:
    """Until SIGINT or SIGTERM, which end the process with 0; a set-up that cannot work ends it with 1."""
    stop = Stop()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    use_large_shared_memory()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        started = run(stop)
    except SetupError as error:
        rclpy.logging.get_logger("depth_node").fatal(str(error))
        started = False
    finally:
        rclpy.try_shutdown()
    sys.exit(0 if started else 1)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What every test finds: checked messages, a ROS graph of its own on this machine, signals as in a terminal, and skips
that say why."""

import importlib.util
import os
import signal
import sys

import pytest

# Before any message is imported: fields are type-checked (unchecked, a wrong type corrupts the value silently).
assert "rclpy" not in sys.modules, "rclpy was imported before the test environment was set"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 90 + 10))

# A shell starts what runs in its background with SIGINT ignored, and so would be every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NEEDS = {
    "ros": (("rclpy", "depthlm_ros.srv"), "run `make setup` and `. ./env.sh`, or `make test`"),
    "torch": (("torch", "transformers"), "run `make setup-torch` and `. ./env.sh torch`, or `make test`"),
}


def missing(marker: str) -> str:
    """Why tests with this marker cannot run here, or an empty string."""
    modules, remedy = NEEDS[marker]
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{', '.join(absent)} not here: {remedy}" if absent else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here; in an environment that must be whole (DEPTHLM_MUST_RUN="ros") that is an error."""
    must_run = os.environ.get("DEPTHLM_MUST_RUN", "").split()
    for marker in NEEDS:
        reason = missing(marker)
        if reason and marker in must_run:
            raise pytest.UsageError(f"tests marked {marker} must run here, but {reason}")
        for item in items:
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory):
    """A bundle of the embedded architecture with random weights, at two canvas sizes. It needs torch."""
    from support.embedded_bundles import write_random_bundle

    return write_random_bundle(tmp_path_factory.mktemp("bundles") / "random")

# SPDX-License-Identifier: Apache-2.0
"""Parameters: what can be set, what is refused and with which message; the YAML file agrees with the code."""

import dataclasses

import pytest
import yaml
from support.paths import ROOT

from depthlm_ros.ros.parameters import BadParameter, Parameters, parameter_name

CONFIG = ROOT / "config" / "depthlm.param.yaml"
FIELDS = {parameter_name(field): field for field in dataclasses.fields(Parameters)}


def test_yaml_file_holds_every_parameter_with_the_same_default():
    in_file = yaml.safe_load(CONFIG.read_text())["/**"]["ros__parameters"]
    in_code = {name: field.default for name, field in FIELDS.items()}
    assert {name: tuple(value) if isinstance(value, list) else value for name, value in in_file.items()} == in_code


def mark_of(field) -> str:
    return "u" if field.metadata["unconfigured_only"] else "r" if field.metadata["read_only"] else "w"


def test_yaml_file_marks_when_a_parameter_can_be_set():
    lines = [
        line.split("#") for line in CONFIG.read_text().splitlines() if ": " in line and not line.strip().startswith("#")
    ]
    marks = {line[0].split(":")[0].strip(): line[1].split()[0] for line in lines}
    assert marks == {name: mark_of(field) for name, field in FIELDS.items()}


def test_every_parameter_is_described_in_a_sentence():
    assert all(field.metadata["text"].endswith(".") for field in FIELDS.values())


BAD = [
    ("mode", "fast", "dense, sparse"),
    ("image_transport", "theora", "raw, compressed"),
    ("depth_encoding", "mono16", "32FC1, 16UC1"),
    ("model", " ", "depthlm models"),
    ("cloud_stride", 0, "from 1 to 64"),
    ("max_depth_m", float("nan"), "from 0.01 to 1000"),
    ("min_depth_m", -1.0, "from 0 to 1000"),
    ("cloud_voxel_m", 0.001, "at least 0.005"),
    ("compressed_png_level", 10, "depth.image.compressedDepth.png_level is 10: it must be from 0 to 9"),
    ("max_rate_hz", -1.0, "from 0 to 1000"),
    ("sparse_grid", (4, 0), "from 1 to 64"),
    ("sparse_grid", (4, 4, 4), "rows and columns"),
    ("query_timeout_s", float("inf"), "from 0.05 to 600"),
    ("max_waiting_questions", 0, "from 1 to 64"),
    ("stale_after_s", 0.0, "from 0.1 to 3600"),
]


@pytest.mark.parametrize(("name", "value", "advice"), BAD)
def test_bad_value_is_refused_with_its_name_and_what_is_allowed(name, value, advice):
    with pytest.raises(BadParameter) as caught:
        dataclasses.replace(Parameters(), **{name: value})
    parameter = next(parameter for parameter, field in FIELDS.items() if field.name == name)
    assert parameter in str(caught.value) and advice in str(caught.value)


def test_empty_depth_range_is_refused():
    with pytest.raises(BadParameter, match=r"min_depth_m is 5 and max_depth_m is 4"):
        Parameters(min_depth_m=5.0, max_depth_m=4.0)


@pytest.fixture
def make_node():
    rclpy = pytest.importorskip("rclpy")
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def make(**overrides):
        values = [rclpy.Parameter(name, value=value) for name, value in overrides.items()]
        nodes.append(rclpy.create_node("parameters_test", context=context, parameter_overrides=values))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.shutdown()


@pytest.mark.ros
class TestOnANode:
    def test_parameters_without_overrides_have_the_defaults(self, make_node):
        from depthlm_ros.ros.parameters import declare_parameters

        assert declare_parameters(make_node()) == Parameters()

    def test_overrides_get_the_types_of_the_fields(self, make_node):
        from depthlm_ros.ros.parameters import declare_parameters

        compressed = {"depth.image.compressedDepth.depth_max": 20}
        found = declare_parameters(
            make_node(**compressed, max_depth_m=50, sparse_grid=[2, 3], mode="sparse", autostart=False)
        )
        assert found == Parameters(
            compressed_max_m=20.0, max_depth_m=50.0, sparse_grid=(2, 3), mode="sparse", autostart=False
        )
        assert type(found.max_depth_m) is float

    @pytest.mark.parametrize(
        ("name", "value"),
        [("mode", "fast"), ("cloud_stride", 0), ("cloud_stride", "two"), ("max_depth_m", "far"), ("max_depth_m", -3)],
    )
    def test_bad_override_is_refused_with_its_name(self, make_node, name, value):
        from depthlm_ros.ros.parameters import declare_parameters

        with pytest.raises(BadParameter, match=name):
            declare_parameters(make_node(**{name: value}))

    def test_descriptors_say_what_may_be_set(self, make_node):
        from depthlm_ros.ros.parameters import declare_parameters

        node = make_node()
        declare_parameters(node)
        for name, field in FIELDS.items():
            descriptor = node.describe_parameter(name)
            assert descriptor.description and descriptor.read_only == field.metadata["read_only"]
        stride = node.describe_parameter("cloud_stride").integer_range[0]
        assert (stride.from_value, stride.to_value) == (1, 64)
        assert node.describe_parameter("max_depth_m").floating_point_range[0].to_value == 1000.0
        assert "sparse" in node.describe_parameter("mode").additional_constraints

    def test_empty_list_is_refused_with_what_it_should_hold(self):
        import rclpy

        from depthlm_ros.ros.parameters import declare_parameters

        context = rclpy.Context()
        rclpy.init(args=["--ros-args", "-p", "sparse_grid:=[]"], context=context)
        node = rclpy.create_node("parameters_test", context=context)
        with pytest.raises(BadParameter, match="sparse_grid is empty: Rows and columns"):
            declare_parameters(node)
        node.destroy_node()
        context.shutdown()

    def test_change_at_run_time_is_checked_together_with_the_other_values(self, make_node):
        import rclpy

        from depthlm_ros.ros.parameters import updated_parameters

        news = [rclpy.Parameter("max_depth_m", value=7), rclpy.Parameter("use_sim_time", value=True)]
        news.append(rclpy.Parameter("depth.image.compressedDepth.png_level", value=9))
        assert updated_parameters(Parameters(), news) == Parameters(max_depth_m=7.0, compressed_png_level=9)
        with pytest.raises(BadParameter, match="min_depth_m"):
            updated_parameters(Parameters(), [rclpy.Parameter("min_depth_m", value=200.0)])

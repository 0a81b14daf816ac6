# SPDX-License-Identifier: Apache-2.0
"""The scale of depth in a real node, on rendered scenes whose depth is told by a wrong factor.

The pictures hold their own depth (support/depth_pictures.py), so that the truth is known at every pixel.
"""

import dataclasses
import json
import math

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")
pytest.importorskip("depthlm_ros.srv")
pytest.importorskip("numba")

from geometry_msgs.msg import Point  # noqa: E402
from sensor_msgs.msg import LaserScan, PointCloud2, Range  # noqa: E402
from support.depth_pictures import depth_picture, write_reader  # noqa: E402
from support.ros_rig import depth_of, new_rig  # noqa: E402

from depthlm_ros.geometry.pinhole import backproject, centred_camera  # noqa: E402
from depthlm_ros.geometry.rotations import quaternion_xyzw  # noqa: E402
from depthlm_ros.msg import DepthScale  # noqa: E402
from depthlm_ros.ros.message_out import colour_image, point_cloud  # noqa: E402
from depthlm_ros.ros.scale_monitor import SILENT_S  # noqa: E402
from depthlm_ros.scenes.camera.photo import photograph  # noqa: E402
from depthlm_ros.scenes.camera.viewpoints import sample_pose  # noqa: E402
from depthlm_ros.scenes.renderer.render import render  # noqa: E402
from depthlm_ros.scenes.world.sample import sample_scene  # noqa: E402
from depthlm_ros.srv import QueryDepth  # noqa: E402

CAMERA = centred_camera((160, 120), 130.0)
SEED = 7  # a room whose floor is seen by a camera that looks down a little
STEP_NS = 200_000_000
CORRECT = ("-p", "scale_mode:=correct")
# Replaces tf2_ros: transforms (x, y, z, and the quaternion) are in a file, by "target<source" or with "@stamp".
TF2_ROS = """
import json, pathlib
from geometry_msgs.msg import TransformStamped

class TransformException(Exception):
    pass

class Buffer:
    def lookup_transform(self, target, source, stamp, timeout):
        known = json.loads((pathlib.Path(__file__).parent / "transforms.json").read_text())
        name = f"{target}<{source}"
        values = known.get(f"{name}@{stamp.nanoseconds}", known.get(name))
        if values is None:
            raise TransformException(f"{name} is not known")
        found = TransformStamped()
        shift, turn = found.transform.translation, found.transform.rotation
        shift.x, shift.y, shift.z, turn.x, turn.y, turn.z, turn.w = values
        return found

class TransformListener:
    def __init__(self, buffer, node):
        pass

    def unregister(self):
        pass
"""


class Room:
    """A rendered room, and where its camera is. down: gravity in the optical frame."""

    def __init__(self, camera=CAMERA) -> None:
        self.camera, rng = camera, np.random.default_rng(SEED)
        self.scene = sample_scene(rng)
        self.pose = sample_pose(rng, self.scene)
        self.height_m = float(self.pose.t[2])
        self.down = self.pose.R.T @ np.array([0.0, 0.0, -1.0])
        self.depth_m, self.grey = self.look(self.pose)

    def look(self, pose):
        rendered = render(self.scene, pose, self.camera)
        return rendered.depth_m, cv2.cvtColor(photograph(np.random.default_rng(0), rendered), cv2.COLOR_RGB2GRAY)

    def half_covered(self) -> np.ndarray:
        """The depth with the left half of the floor hidden by a box."""
        v, u = np.mgrid[:120, :160]
        points_m = backproject(np.stack([u, v], -1).reshape(-1, 2), self.depth_m, CAMERA).reshape(120, 160, 3)
        on_floor = np.abs(points_m @ self.down - self.height_m) < 0.03
        assert on_floor.sum() > 1500
        return np.where(on_floor & (u < np.median(u[on_floor])), np.minimum(self.depth_m, 0.9), self.depth_m)


@pytest.fixture(scope="module")
def room():
    return Room()


@pytest.fixture
def rig(tmp_path, monkeypatch):
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "tf2_ros.py").write_text(TF2_ROS)
    (tmp_path / "stub" / "transforms.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"), prepend=":")
    with new_rig(tmp_path) as rig:
        rig.received["depth/scale"] = []
        rig.transforms_file = tmp_path / "stub" / "transforms.json"
        rig.at_ns = rig.node.get_clock().now().nanoseconds
        yield rig


def start(rig, tmp_path, factor, *args, camera=CAMERA):
    rig.start("-p", f"model:={write_reader(tmp_path / 'net', camera, factor)}", *args, watched=("depth/image",))
    rig.node.create_subscription(DepthScale, "depth/scale", rig.received["depth/scale"].append, 50)
    rig.wait(lambda: rig.node.count_publishers(f"{rig.namespace}/depth/scale"), "publisher of depth/scale")


def shoot(rig, depth_m, grey=None, before=lambda: None, step_ns=STEP_NS, camera=CAMERA):
    """Publishes an image, after `before`; returns the depth and the scale of it. Stamps advance by a step."""
    rig.at_ns += step_ns
    before()
    image = colour_image(rig.header(rig.at_ns), depth_picture(depth_m, grey))
    rig.shoot(image, camera=camera)
    depth = depth_of(rig.of_stamp("depth/image", rig.at_ns))
    return depth, rig.of_stamp("depth/scale", rig.at_ns)


def shoot_until(rig, depth_m, is_good, most=60, **kwargs):
    for _ in range(most):
        depth, scale = shoot(rig, depth_m, **kwargs)
        if is_good(scale):
            return depth, scale
    raise AssertionError(f"after {most} images: {scale}; the node said:\n{rig.log}")


def begin(rig, depth_m, camera=CAMERA):
    """Waits until the topics flow: the first images may come before the connections."""
    rig.shoot_until("depth/image", lambda: rig.shoot(colour_image(rig.header(), depth_picture(depth_m)), camera=camera))
    rig.at_ns = rig.node.get_clock().now().nanoseconds + 20 * STEP_NS


def by_height(room):
    pitch_deg = math.degrees(math.asin(room.down[2]))
    return "-p", f"camera_height_m:={room.height_m}", "-p", f"camera_pitch_deg:={pitch_deg}"


def test_wrong_scale_is_found_by_the_camera_height_and_warned_about_once(rig, room, tmp_path):
    start(rig, tmp_path, 0.7, *by_height(room))
    begin(rig, room.depth_m)
    depth, scale = shoot_until(rig, room.depth_m, lambda scale: len(scale.sources) and scale.samples > 1000)
    assert scale.ratio == pytest.approx(1 / 0.7, rel=0.05) and 0 < scale.std < 0.1
    assert list(scale.sources) == ["camera_height"] and list(scale.source_samples) == [scale.samples]
    assert scale.applied == 1.0 and np.nanmedian(depth / room.depth_m) == pytest.approx(0.7, rel=0.02)
    rig.wait(lambda: "scale_mode to correct" in rig.log, "warning")
    for _ in range(5):
        shoot(rig, room.depth_m)
    assert rig.log.count("scale_mode to correct") == 1
    health = rig.newest_health()
    assert float(health["scale_ratio"]) == pytest.approx(1 / 0.7, rel=0.05) and health["scale_mode"] == "warn"
    assert int(health["scale_samples"]) >= 1000 and health["scale_applied"] == "1.000"


def test_half_covered_floor_corrects_depth_and_answers(rig, room, tmp_path):
    covered_m = room.half_covered()
    start(rig, tmp_path, 1.4, *by_height(room), *CORRECT)
    begin(rig, covered_m)
    factors = []
    for _ in range(60):
        depth, scale = shoot(rig, covered_m)
        factors.append(scale.applied)
        assert np.nanmedian(depth / covered_m) == pytest.approx(1.4 * scale.applied, rel=0.02)
    assert factors[-1] == pytest.approx(1 / 1.4, rel=0.05) and max(np.abs(np.diff(np.log(factors)))) < 0.1
    response = rig.ask("query_depth", QueryDepth.Request(pixels=[Point(x=80.0, y=40.0)], timeout_s=5.0))
    assert response.depth[0] == pytest.approx(covered_m[40, 80], rel=0.06)
    assert "multiplied by 0.7" in response.message
    assert rig.log.count("it is multiplied by the ratio") == 1 and "scale_mode to correct" not in rig.log


def ranges(rig, room, wrong_share):
    """Returns a function that publishes what a range sensor on the camera, along its axis, measures."""
    publisher = rig.node.create_publisher(Range, "scale/range", 10)
    rig.wait(publisher.get_subscription_count, "subscriber of scale/range")
    rng = np.random.default_rng(0)
    true_m = float(room.depth_m[60, 80])

    def publish():
        measured_m = rng.uniform(0.3, 0.8) * true_m if rng.random() < wrong_share else true_m
        header = rig.header(rig.at_ns, "range")
        publisher.publish(Range(header=header, field_of_view=0.02, min_range=0.02, max_range=9.0, range=measured_m))

    return publish


# The sensor looks along its x axis, the camera along its z axis.
ALONG_CAMERA = [0.0, 0.0, 0.0, 0.5, -0.5, 0.5, 0.5]


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_range_sensor_with_a_third_of_wrong_ranges_corrects_depth(rig, room, tmp_path, factor):
    rig.transforms_file.write_text(json.dumps({"camera<range": ALONG_CAMERA}))
    start(rig, tmp_path, factor, *CORRECT)
    begin(rig, room.depth_m)
    publish = ranges(rig, room, wrong_share=0.3)
    depth, scale = shoot_until(
        rig,
        room.depth_m,
        lambda scale: abs(math.log(scale.applied * factor)) < 0.04 and scale.samples > 15,
        before=publish,
    )
    assert scale.ratio == pytest.approx(1 / factor, rel=0.05) and list(scale.sources) == ["range"]
    assert np.nanmedian(depth / room.depth_m) == pytest.approx(1.0, rel=0.05)


def test_hostile_messages_never_change_the_scale(rig, room, tmp_path):
    start(rig, tmp_path, 0.7, *CORRECT)
    begin(rig, room.depth_m)
    kinds = {"scale/range": Range, "scale/scan": LaserScan, "scale/points": PointCloud2}
    publishers = {name: rig.node.create_publisher(kind, name, 50) for name, kind in kinds.items()}
    for publisher in publishers.values():
        rig.wait(publisher.get_subscription_count, "subscriber")
    nan, inf = math.nan, math.inf

    def publish():
        here, unknown = rig.header(rig.at_ns), rig.header(rig.at_ns, "nowhere")
        stale, unstamped = rig.header(rig.at_ns - 3_000_000_000), rig.header(0)
        cone = {"field_of_view": 0.1, "min_range": 0.1, "max_range": 5.0}
        bad = [Range(header=here, range=each, **cone) for each in (nan, inf, -inf, -1.0, 0.0, 0.05, 7.0)]
        bad += [Range(header=header, range=2.0, **cone) for header in (unknown, stale, unstamped)]
        bad += [Range(header=here, range=2.0, field_of_view=nan, max_range=5.0)]
        beams = {"angle_min": 0.0, "angle_increment": 0.1, "range_min": 0.1, "range_max": 5.0}
        bad += [LaserScan(header=here, ranges=[nan, inf, -2.0, 0.0, 0.01, 9.0], **beams)]
        bad += [
            LaserScan(header=unknown, ranges=[2.0] * 9, **beams),
            LaserScan(header=stale, ranges=[2.0] * 9, **beams),
        ]
        bad += [LaserScan(header=here, ranges=[2.0] * 9, angle_min=nan, angle_increment=inf, range_max=5.0)]
        points = np.array([[[nan] * 3, [inf] * 3, [0.0, 0.0, -2.0], [0.0, 0.0, 0.0]]], np.float32)
        good = np.array([[[0.0, 0.0, 2.0]] * 9], np.float32)
        cut = point_cloud(here, good, "xyz")
        cut.height = 1000
        bad += [
            point_cloud(here, points, "xyz"),
            point_cloud(unknown, good, "xyz"),
            point_cloud(stale, good, "xyz"),
            cut,
        ]
        bad += [point_cloud(here, good, "abc"), PointCloud2(header=here)]
        for message in bad:
            publishers[next(name for name, kind in kinds.items() if isinstance(message, kind))].publish(message)

    for _ in range(12):
        depth, scale = shoot(rig, room.depth_m, before=publish)
        assert scale.samples == 0 and math.isnan(scale.ratio) and math.isnan(scale.std) and scale.applied == 1.0
    assert np.nanmedian(depth / room.depth_m) == pytest.approx(0.7, rel=0.02)
    rig.wait(lambda: "is left out" in rig.log, "report of a bad message")
    assert "Traceback" not in rig.log and "internal error" not in rig.log


def test_without_samples_nothing_happens_and_it_is_said_once(rig, room, tmp_path):
    start(rig, tmp_path, 0.7, *CORRECT)
    begin(rig, room.depth_m)
    images = math.ceil(4 * SILENT_S)
    for _ in range(images):
        depth, scale = shoot(rig, room.depth_m, step_ns=1_000_000_000)
    assert scale.samples == 0 and scale.applied == 1.0
    assert np.nanmedian(depth / room.depth_m) == pytest.approx(0.7, rel=0.02)
    assert rig.log.count("nothing tells the scale") == 1


def test_source_that_gives_nothing_is_named_once_with_its_reason(rig, room, tmp_path):
    start(rig, tmp_path, 0.7, "-p", "floor_frame:=base_footprint")
    begin(rig, room.depth_m)
    for _ in range(math.ceil(3 * SILENT_S)):
        shoot(rig, room.depth_m, step_ns=1_000_000_000)
    assert rig.log.count("base_footprint gave nothing") == 1 and "tf does not say" in rig.log


def test_floor_frame_tells_height_and_tilt(rig, room, tmp_path):
    pose = room.pose
    transforms = {"base_footprint<camera": [0.2, 0.0, room.height_m, *quaternion_xyzw(pose.R).tolist()]}
    rig.transforms_file.write_text(json.dumps(transforms))
    start(rig, tmp_path, 1.4, "-p", "floor_frame:=base_footprint")
    begin(rig, room.depth_m)
    _, scale = shoot_until(rig, room.depth_m, lambda scale: scale.samples > 1000)
    assert scale.ratio == pytest.approx(1 / 1.4, rel=0.05) and list(scale.sources) == ["camera_height"]


def test_odometry_tells_the_scale(rig, tmp_path):
    camera = centred_camera((320, 240), 260.0)
    room, transforms, scale = Room(camera), {}, None
    start(rig, tmp_path, 0.7, "-p", "odom_frame:=odom", camera=camera)
    begin(rig, room.depth_m, camera)
    for number in range(12):
        pose = dataclasses.replace(room.pose, t=room.pose.t + room.pose.R @ np.array([0.06, 0.0, 0.02]) * number)
        transforms[f"odom<camera@{rig.at_ns + STEP_NS}"] = [*pose.t.tolist(), *quaternion_xyzw(pose.R).tolist()]
        rig.transforms_file.write_text(json.dumps(transforms))
        _, scale = shoot(rig, *room.look(pose), camera=camera)
    assert list(scale.sources) == ["odometry"] and scale.ratio == pytest.approx(1 / 0.7, rel=0.05), rig.log


def test_scale_mode_off_does_nothing(rig, room, tmp_path):
    start(rig, tmp_path, 0.7, *by_height(room), "-p", "scale_mode:=off")
    begin(rig, room.depth_m)
    for _ in range(8):
        _, scale = shoot(rig, room.depth_m)
    assert scale.samples == 0 and scale.applied == 1.0 and "scale" not in rig.log.replace("scale_", "")

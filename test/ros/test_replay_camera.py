# SPDX-License-Identifier: Apache-2.0
"""The replay camera publishes its images with their lens, stamps and order, as camera drivers do."""

import json
import subprocess

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from rclpy.qos import ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from support.checkered_room import write_labels  # noqa: E402
from support.exif import TURNED_RIGHT, jpeg_bytes  # noqa: E402
from support.ros_rig import new_rig  # noqa: E402

from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.errors import BadInput  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.ros.child_process import ChildProcess, graph_environment, module_command  # noqa: E402
from depthlm_ros.ros.message_in import camera_from_info, image_to_rgb  # noqa: E402
from depthlm_ros.ros.tools.picture_lens import KnownLens, find_lens  # noqa: E402
from depthlm_ros.ros.tools.replay_camera import image_source, label_source  # noqa: E402

KNOWN = KnownLens(50.0, 51.0, 15.5, 11.5)
CAMERA = Intrinsics(50.0, 51.0, 15.5, 11.5, 32, 24)
COLOURS = {"b.png": (200, 10, 20), "a.jpg": (10, 200, 30), "c.PNG": (20, 30, 200)}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "images"
    path.mkdir()
    for name, colour in COLOURS.items():
        cv2.imwrite(str(path / name), np.full((24, 32, 3), colour[::-1], np.uint8))
    (path / "notes.txt").write_text("not an image")
    return path


def source_of(path, warn=pytest.fail, known=KNOWN, **limits):
    return image_source(path, find_lens(path, known), warn, **limits)


class TestSources:
    def test_folder_is_shown_in_name_order_and_from_the_start_each_time(self, folder):
        source = source_of(folder)
        for _ in range(2):
            images = list(source())
            assert [image.name for image in images] == ["a.jpg", "b.png", "c.PNG"]
        assert images[1].rgb[0, 0].tolist() == [200, 10, 20] and images[1].depth_m is None
        assert images[1].intrinsics == CAMERA

    def test_cache_of_decoded_images_respects_its_size_limit(self, folder):
        size = 24 * 32 * 3
        for cache_bytes, cached in ((10 * size, 3), (2 * size, 2), (size - 1, 0)):
            source = source_of(folder, cache_bytes=cache_bytes)
            first, second = list(source()), list(source())
            assert sum(a.rgb is b.rgb for a, b in zip(first, second, strict=True)) == cached
            assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(first, second, strict=True))

    def test_image_of_another_size_is_left_out_because_the_lens_does_not_fit(self, folder):
        cv2.imwrite(str(folder / "d.png"), np.zeros((24, 40, 3), np.uint8))
        source = source_of(folder, (warnings := []).append)
        for _ in range(2):
            assert [image.name for image in source()] == ["a.jpg", "b.png", "c.PNG"]
        assert len(warnings) == 1 and "d.png: is 40 x 24" in warnings[0]

    def test_images_of_all_sizes_are_shown_upright_if_the_lens_is_not_calibrated(self, tmp_path):
        rgb = np.zeros((40, 60, 3), np.uint8)
        rgb[:20] = 200  # After the turn this is the right half.
        (tmp_path / "a.jpg").write_bytes(jpeg_bytes(rgb, film_mm=30, orientation=TURNED_RIGHT))
        (tmp_path / "b.jpg").write_bytes(jpeg_bytes(rgb[:, :30]))
        upright, plain = source_of(tmp_path, known=KnownLens())()
        assert upright.rgb.shape == (60, 40, 3) and upright.rgb[30, 35].mean() > 150 > upright.rgb[30, 5].mean()
        assert upright.intrinsics.fx_px == pytest.approx(30 * np.hypot(60, 40) / np.hypot(36, 24))
        assert plain.rgb.shape == (40, 30, 3) and plain.intrinsics.fx_px == pytest.approx(0.8 * 40)
        (stored, *_) = source_of(tmp_path, lambda text: None, KnownLens(50.0, cx_px=29.5))()
        assert stored.rgb.shape == (40, 60, 3)

    def test_large_images_are_shrunk_with_their_camera(self, folder):
        from depthlm_ros.geometry.pinhole import rays

        (small, *_), (large, *_) = (list(source_of(folder, longest_px=px)()) for px in (16, None))
        assert small.rgb.shape == (12, 16, 3) and large.rgb.shape == (24, 32, 3)
        # The centre of a pixel of the small image lies between four of the large one.
        blocks = rays(large.intrinsics).reshape(12, 2, 16, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(rays(small.intrinsics), blocks, atol=1e-6)

    @pytest.mark.parametrize(
        ("most", "names"), [(2, ["a.jpg", "c.PNG"]), (1, ["a.jpg"]), (9, ["a.jpg", "b.png", "c.PNG"])]
    )
    def test_of_a_large_folder_some_images_are_shown_evenly_spread(self, folder, most, names):
        assert [image.name for image in source_of(folder, most=most)()] == names

    def test_video_is_shown_frame_by_frame(self, tmp_path):
        path = tmp_path / "film.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
        for colour in COLOURS.values():
            writer.write(np.full((24, 32, 3), colour[::-1], np.uint8))
        writer.release()
        if not path.exists():
            pytest.skip("this OpenCV writes no video")
        images = list(source_of(path)())
        assert len(images) == 3
        assert np.abs(images[2].rgb[12, 16].astype(int) - COLOURS["c.PNG"]).max() < 12

    def test_labelled_images_have_their_own_intrinsics(self, tmp_path):
        labels = write_labels(tmp_path, images=2)
        images = list(label_source(labels, pytest.fail)())
        expected = [json.loads(line)["intrinsics"] for line in labels.read_text().splitlines()]
        assert [list(vars(image.intrinsics).values()) for image in images] == expected

    def test_truncated_image_is_left_out_and_reported_once(self, folder):
        (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
        warnings = []
        source = source_of(folder, warnings.append)
        for _ in range(2):
            assert [image.name for image in source()] == ["a.jpg", "c.PNG"]
        assert len(warnings) == 1 and "b.png" in warnings[0]

    def test_missing_labelled_image_is_left_out_alone(self, tmp_path):
        labels = write_labels(tmp_path, images=3)
        source = label_source(labels, (warnings := []).append)
        missing, *others = (tmp_path / json.loads(line)["image"] for line in labels.read_text().splitlines())
        missing.unlink()
        assert [image.name for image in source()] == [file.name for file in others]
        assert len(warnings) == 1 and missing.name in warnings[0]

    def test_round_without_any_readable_image_raises(self, folder):
        for name in COLOURS:
            (folder / name).write_bytes(b"not an image")
        with pytest.raises(BadInput, match="none of these images"):
            list(source_of(folder, lambda text: None)())

    @pytest.mark.parametrize("name", ["nowhere", "empty", "notes.txt"])
    def test_path_without_images_is_reported_by_name(self, folder, tmp_path, name):
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes.txt").write_text("not a video")
        with pytest.raises(BadInput, match=name):
            source_of(tmp_path / name)

    def test_rendered_room_has_exact_depth_and_is_flown_forth_and_back(self):
        pytest.importorskip("numba")
        from depthlm_ros.ros.tools.replay_camera import rendered_room_source

        camera = Intrinsics(50.0, 50.0, 31.5, 23.5, 64, 48)
        images = list(rendered_room_source(camera, steps=4)())
        assert [image.name for image in images] == [f"step {step}" for step in (0, 1, 2, 3, 2, 1)]
        assert all(image.depth_m.shape == (48, 64) and image.rgb.shape == (48, 64, 3) for image in images)
        depth_m = images[0].depth_m
        assert np.isfinite(depth_m).mean() > 0.9 and 0.3 < np.nanmedian(depth_m) < 10
        assert not np.array_equal(images[0].rgb, images[3].rgb)


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as made:
        yield made


def start_camera(rig, folder, *args):
    command = module_command(
        "depthlm_ros.ros.tools.replay_camera", *map(str, args), "--ros-args", "-r", f"__ns:={rig.namespace}"
    )
    rig.process = ChildProcess("camera", command, folder / "node.log", graph_environment())


def subscribe(rig, *names):
    kinds = {"image": Image, "camera_info": CameraInfo, "depth_truth/image": Image}
    for name in names:
        rig.received[name] = []
        rig.node.create_subscription(kinds[name], name, rig.received[name].append, 50)


def lens_options():
    return KNOWN.options()


def test_every_image_is_published_once_with_its_calibration_and_exit_code_is_0(rig, folder, tmp_path):
    subscribe(rig, "image", "camera_info")
    start_camera(rig, tmp_path, "--images", folder, *lens_options(), "--once", "--rate", 20, "--wait", 20)
    rig.wait(lambda: len(rig.received["image"]) == 3 and len(rig.received["camera_info"]) == 3, "three images")
    images, infos = rig.received["image"], rig.received["camera_info"]
    assert [image.header for image in images] == [info.header for info in infos]
    stamps = [stamp_ns(image.header) for image in images]
    assert stamps == sorted(set(stamps)) and images[0].header.frame_id == "camera_optical_frame"
    assert image_to_rgb(images[1])[5, 5].tolist() == list(COLOURS["b.png"])
    assert camera_from_info(infos[0]).rectified_intrinsics == CAMERA
    assert rig.process._popen.wait(20) == 0


def test_images_repeat_until_a_signal_ends_the_camera_with_exit_code_0(rig, folder, tmp_path):
    subscribe(rig, "image")
    start_camera(rig, tmp_path, "--images", folder, *lens_options(), "--frame-id", "left", "--rate", 30)
    rig.wait(lambda: len(rig.received["image"]) > 4, "images, again from the start")
    assert {image.header.frame_id for image in rig.received["image"]} == {"left"}
    assert rig.stop() == 0 and "Traceback" not in rig.log


def test_best_effort_option_sets_the_publishers_reliability(rig, folder, tmp_path):
    start_camera(rig, tmp_path, "--images", folder, *lens_options(), "--best-effort")
    topic = f"{rig.namespace}/image"

    def offers():
        found = rig.node.get_publishers_info_by_topic(topic)
        return [offer for offer in found if offer.node_name == "replay_camera"]

    (offer,) = rig.wait(offers, "publisher")
    assert offer.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_rendered_room_publishes_exact_depth_with_the_same_header(rig, tmp_path):
    pytest.importorskip("numba")
    subscribe(rig, "image", "depth_truth/image")
    start_camera(rig, tmp_path, "--size", 64, 48, "--steps", 3, "--rate", 20, "--wait", 20)
    rig.wait(lambda: len(rig.received["image"]) > 3 and len(rig.received["depth_truth/image"]) > 3, "room", 60)
    truth = {stamp_ns(message.header): message for message in rig.received["depth_truth/image"]}
    image = next(message for message in rig.received["image"] if stamp_ns(message.header) in truth)
    beside = truth[stamp_ns(image.header)]
    assert (beside.encoding, beside.width, beside.height) == ("32FC1", 64, 48)
    assert beside.header == image.header


def test_images_without_a_lens_are_published_each_with_its_own_calibration(rig, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    grey = np.full((24, 32, 3), 99, np.uint8)
    (pictures / "a.jpg").write_bytes(jpeg_bytes(grey, film_mm=26))
    (pictures / "b.jpg").write_bytes(jpeg_bytes(grey[:, :20]))
    subscribe(rig, "image", "camera_info")
    start_camera(rig, tmp_path, "--images", pictures, "--once", "--rate", 20, "--wait", 20)
    rig.wait(lambda: len(rig.received["camera_info"]) == 2, "two calibrations")
    first, second = (camera_from_info(info).rectified_intrinsics for info in rig.received["camera_info"])
    assert first.fx_px == first.fy_px == pytest.approx(26 * 40 / np.hypot(36, 24))
    assert second == Intrinsics(0.8 * 24, 0.8 * 24, 9.5, 11.5, 20, 24)
    assert rig.process._popen.wait(20) == 0
    assert "from the Exif data of 1 of 2 pictures" in rig.log


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--images", "/nowhere", *lens_options()), 1, "/nowhere does not exist"),
        (("--images", "/nowhere", "--fx", "abc"), 2, "'abc' is not a focal length"),
        (("--images", "/nowhere", "--fx", -1), 2, "'-1' is not a focal length"),
        (("--images", "/nowhere", "--cx", 3), 1, "without FX"),
        (("--images", "/nowhere", "--most", 0), 2, "--most is 0"),
        (("--images", "/tmp", *lens_options(), "--rate", 0), 2, "--rate is 0"),
        (("--labels", "/nowhere.jsonl"), 1, "/nowhere.jsonl"),
        (("--focal", -3, "--steps", 2), 1, "-3"),
    ],
)
def test_unusable_options_are_reported_with_their_exit_code(args, code, message):
    command = module_command("depthlm_ros.ros.tools.replay_camera", *map(str, args))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code and message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

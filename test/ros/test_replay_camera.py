"""The replay camera shows what it is given, through the lens it is given, stamped and paired as drivers do."""

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
from support.ros_rig import new_rig  # noqa: E402

from depthlm_ros.core import Intrinsics  # noqa: E402
from depthlm_ros.errors import BadImage, BadInput  # noqa: E402
from depthlm_ros.ros.camera_info_sync import stamp_ns  # noqa: E402
from depthlm_ros.ros.child_process import Process, module, own_graph  # noqa: E402
from depthlm_ros.ros.message_in import camera_from_info, image_to_rgb  # noqa: E402
from depthlm_ros.ros.tools.replay_camera import Lens, labelled, pictures  # noqa: E402

LENS = Lens(50.0, 51.0, 15.5, 11.5)
COLOURS = {"b.png": (200, 10, 20), "a.jpg": (10, 200, 30), "c.PNG": (20, 30, 200)}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    made.mkdir()
    for name, colour in COLOURS.items():
        cv2.imwrite(str(made / name), np.full((24, 32, 3), colour[::-1], np.uint8))
    (made / "notes.txt").write_text("no picture")
    return made


class TestSources:
    def test_a_folder_is_shown_in_the_order_of_its_names_each_time_from_the_start(self, folder):
        source = pictures(folder, LENS, pytest.fail)
        for _ in range(2):
            shots = list(source())
            assert [shot.name for shot in shots] == ["a.jpg", "b.png", "c.PNG"]
        assert shots[1].rgb[0, 0].tolist() == [200, 10, 20] and shots[1].depth_m is None
        assert shots[1].intrinsics == Intrinsics(50.0, 51.0, 15.5, 11.5, 32, 24)

    def test_of_the_decoded_pictures_no_more_bytes_are_kept_than_may_be(self, folder):
        size = 24 * 32 * 3
        for kept_bytes, kept in ((10 * size, 3), (2 * size, 2), (size - 1, 0)):
            source = pictures(folder, LENS, pytest.fail, kept_bytes)
            first, second = list(source()), list(source())
            assert sum(a.rgb is b.rgb for a, b in zip(first, second, strict=True)) == kept
            assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(first, second, strict=True))

    def test_a_picture_of_another_size_is_refused_because_the_lens_is_not_its(self, folder):
        cv2.imwrite(str(folder / "d.png"), np.zeros((24, 40, 3), np.uint8))
        with pytest.raises(BadImage, match=r"d\.png.*40"):
            list(pictures(folder, LENS, pytest.fail)())

    def test_a_video_is_shown_frame_by_frame(self, tmp_path):
        path = tmp_path / "film.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
        for colour in COLOURS.values():
            writer.write(np.full((24, 32, 3), colour[::-1], np.uint8))
        writer.release()
        if not path.exists():
            pytest.skip("this OpenCV writes no video")
        shots = list(pictures(path, LENS, pytest.fail)())
        assert len(shots) == 3
        assert np.abs(shots[2].rgb[12, 16].astype(int) - COLOURS["c.PNG"]).max() < 12

    def test_labelled_images_bring_their_own_lens(self, tmp_path):
        labels = write_labels(tmp_path, images=2)
        shots = list(labelled(labels, pytest.fail)())
        expected = [json.loads(line)["intrinsics"] for line in labels.read_text().splitlines()]
        assert [list(vars(shot.intrinsics).values()) for shot in shots] == expected

    def test_a_picture_cut_short_is_left_out_and_said_once(self, folder):
        (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
        said = []
        source = pictures(folder, LENS, said.append)
        for _ in range(2):
            assert [shot.name for shot in source()] == ["a.jpg", "c.PNG"]
        assert len(said) == 1 and "b.png" in said[0]

    def test_a_labelled_image_that_is_gone_costs_itself(self, tmp_path):
        labels = write_labels(tmp_path, images=3)
        source = labelled(labels, (said := []).append)
        gone, *left = (tmp_path / json.loads(line)["image"] for line in labels.read_text().splitlines())
        gone.unlink()
        assert [shot.name for shot in source()] == [file.name for file in left]
        assert len(said) == 1 and gone.name in said[0]

    def test_when_no_picture_can_be_read_the_round_says_so(self, folder):
        for name in COLOURS:
            (folder / name).write_bytes(b"no picture")
        with pytest.raises(BadInput, match="none of these pictures"):
            list(pictures(folder, LENS, lambda text: None)())

    @pytest.mark.parametrize("name", ["nowhere", "empty", "notes.txt"])
    def test_nothing_to_show_is_said(self, folder, tmp_path, name):
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes.txt").write_text("no film")
        with pytest.raises(BadInput, match=name):
            pictures(tmp_path / name, LENS, pytest.fail)

    def test_a_rendered_room_comes_with_the_exact_depth_and_goes_back_and_forth(self):
        pytest.importorskip("numba")
        from depthlm_ros.ros.tools.replay_camera import rendered_room

        camera = Intrinsics(50.0, 50.0, 31.5, 23.5, 64, 48)
        shots = list(rendered_room(camera, steps=4)())
        assert [shot.name for shot in shots] == [f"step {step}" for step in (0, 1, 2, 3, 2, 1)]
        assert all(shot.depth_m.shape == (48, 64) and shot.rgb.shape == (48, 64, 3) for shot in shots)
        depth_m = shots[0].depth_m
        assert np.isfinite(depth_m).mean() > 0.9 and 0.3 < np.nanmedian(depth_m) < 10
        assert not np.array_equal(shots[0].rgb, shots[3].rgb)


@pytest.fixture
def rig(tmp_path):
    with new_rig(tmp_path) as made:
        yield made


def camera(rig, folder, *args):
    command = module(
        "depthlm_ros.ros.tools.replay_camera", *map(str, args), "--ros-args", "-r", f"__ns:={rig.namespace}"
    )
    rig.process = Process("camera", command, folder / "node.log", own_graph())


def hear(rig, *names):
    kinds = {"image": Image, "camera_info": CameraInfo, "depth_truth/image": Image}
    for name in names:
        rig.received[name] = []
        rig.node.create_subscription(kinds[name], name, rig.received[name].append, 50)


def lens_options():
    return ["--fx", LENS.fx_px, "--fy", LENS.fy_px, "--cx", LENS.cx_px, "--cy", LENS.cy_px]


def test_every_picture_is_published_once_with_its_calibration_and_the_end_is_clean(rig, folder, tmp_path):
    hear(rig, "image", "camera_info")
    camera(rig, tmp_path, "--images", folder, *lens_options(), "--once", "--rate", 20, "--wait", 20)
    rig.wait(lambda: len(rig.received["image"]) == 3 and len(rig.received["camera_info"]) == 3, "three pictures")
    images, infos = rig.received["image"], rig.received["camera_info"]
    assert [image.header for image in images] == [info.header for info in infos]
    stamps = [stamp_ns(image.header) for image in images]
    assert stamps == sorted(set(stamps)) and images[0].header.frame_id == "camera_optical_frame"
    assert image_to_rgb(images[1])[5, 5].tolist() == list(COLOURS["b.png"])
    assert camera_from_info(infos[0]).rectified_intrinsics == LENS.intrinsics(image_to_rgb(images[0]))
    assert rig.process._popen.wait(20) == 0


def test_it_shows_again_from_the_start_until_a_signal_ends_it_with_code_0(rig, folder, tmp_path):
    hear(rig, "image")
    camera(rig, tmp_path, "--images", folder, *lens_options(), "--frame-id", "left", "--rate", 30)
    rig.wait(lambda: len(rig.received["image"]) > 4, "pictures, again from the start")
    assert {image.header.frame_id for image in rig.received["image"]} == {"left"}
    assert rig.stop() == 0 and "Traceback" not in rig.log


def test_it_can_publish_best_effort_as_drivers_do(rig, folder, tmp_path):
    camera(rig, tmp_path, "--images", folder, *lens_options(), "--best-effort")
    topic = f"{rig.namespace}/image"

    def offers():
        found = rig.node.get_publishers_info_by_topic(topic)
        return [offer for offer in found if offer.node_name == "replay_camera"]

    (offer,) = rig.wait(offers, "publisher")
    assert offer.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_the_room_publishes_its_true_depth_beside_the_image(rig, tmp_path):
    pytest.importorskip("numba")
    hear(rig, "image", "depth_truth/image")
    camera(rig, tmp_path, "--size", 64, 48, "--steps", 3, "--rate", 20, "--wait", 20)
    rig.wait(lambda: len(rig.received["image"]) > 3 and len(rig.received["depth_truth/image"]) > 3, "room", 60)
    truth = {stamp_ns(message.header): message for message in rig.received["depth_truth/image"]}
    image = next(message for message in rig.received["image"] if stamp_ns(message.header) in truth)
    beside = truth[stamp_ns(image.header)]
    assert (beside.encoding, beside.width, beside.height) == ("32FC1", 64, 48)
    assert beside.header == image.header


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--images", "/nowhere", *lens_options()), 1, "/nowhere does not exist"),
        (("--images", "/tmp"), 2, "missing: --fx --fy --cx --cy"),
        (("--images", "/tmp", *lens_options(), "--rate", 0), 2, "--rate is 0"),
        (("--labels", "/nowhere.jsonl"), 1, "/nowhere.jsonl"),
        (("--focal", -3, "--steps", 2), 1, "-3"),
    ],
)
def test_a_camera_that_has_nothing_to_show_says_why(args, code, said):
    command = module("depthlm_ros.ros.tools.replay_camera", *map(str, args))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""Curation of driving data sets on miniature copies of their files: projection, motion, defects of the releases."""

import json
import math

import numpy as np
import pytest
from support.small_data_sets import (
    OPTICAL_MOUNT,
    OPTICAL_QUATERNION,
    curate_and_read,
    depth_by_pixel,
    make_quaternion,
    make_transform,
    points_at_pixels,
    transform_points,
    write_file,
    write_image,
)

from depthlm_ros.data.sets.lidar import rigid_transform
from depthlm_ros.errors import BadInput, UnknownName

K = (60.0, 62.0, 31.2, 23.4)
SIZE = (64, 48)
# Pixel -> z of the visible points. HIDDEN is behind the point in the same pixel.
SEEN = {(10, 5): 4.0, (40, 30): 9.0, (63, 47): 20.0}
HIDDEN = {(40, 30): 12.0}


def test_quaternion_of_the_mount_equals_its_matrix():
    np.testing.assert_allclose(rigid_transform(OPTICAL_QUATERNION, np.zeros(3)), OPTICAL_MOUNT, atol=1e-12)


# ---- nuScenes


def write_nuscenes(root, version="v1.0-trainval", scenes=("scene-0001", "scene-0061"), samples=1):
    """Writes scenes of key frames whose vehicle moves and turns between the sweep and the image."""
    then, now = make_transform("z", 20, (100, 50, 0)), make_transform("z", 25, (102, 51, 0))
    mount = make_transform("z", 0, (1.5, 0, 1.6)) @ OPTICAL_MOUNT
    cloud = np.vstack([points_at_pixels(SEEN, K), points_at_pixels(HIDDEN, K)])
    in_lidar = transform_points(np.linalg.inv(then @ make_transform("z", 90, (0, 0, 1.8))) @ now @ mount, cloud)
    tables = {name: [] for name in ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor")}
    tables["sensor"] = [{"token": "sl", "channel": "LIDAR_TOP"}, {"token": "sc", "channel": "CAM_FRONT"}]
    tables["calibrated_sensor"] = [
        {
            "token": "cl",
            "sensor_token": "sl",
            "rotation": make_quaternion("z", 90).tolist(),
            "translation": [0, 0, 1.8],
        },
        {
            "token": "cc",
            "sensor_token": "sc",
            "rotation": OPTICAL_QUATERNION.tolist(),
            "translation": [1.5, 0, 1.6],
            "camera_intrinsic": [[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]],
        },
    ]
    tables["ego_pose"] = [
        {"token": "then", "rotation": make_quaternion("z", 20).tolist(), "translation": [100, 50, 0]},
        {"token": "now", "rotation": make_quaternion("z", 25).tolist(), "translation": [102, 51, 0]},
    ]
    for s, name in enumerate(scenes):
        tables["scene"].append({"token": f"t{s}", "name": name})
        for n in range(samples):
            token = f"{name}-{n}"
            tables["sample"].append({"token": token, "scene_token": f"t{s}", "timestamp": 1000 + n})
            shot = {"sample_token": token, "is_key_frame": True}
            camera = {"filename": f"samples/CAM_FRONT/{token}.jpg", "width": SIZE[0], "height": SIZE[1]}
            tables["sample_data"] += [
                shot
                | {"token": f"l{token}", "filename": f"samples/LIDAR_TOP/{token}.pcd.bin"}
                | {"calibrated_sensor_token": "cl", "ego_pose_token": "then"},
                shot | camera | {"token": f"c{token}", "calibrated_sensor_token": "cc", "ego_pose_token": "now"},
            ]
            write_image(root / camera["filename"], *SIZE)
            sweep = root / f"samples/LIDAR_TOP/{token}.pcd.bin"
            sweep.parent.mkdir(parents=True, exist_ok=True)
            np.hstack([in_lidar, np.zeros((len(in_lidar), 2))]).astype("<f4").tofile(sweep)
    for name, rows in tables.items():
        write_file(root / version / f"{name}.json", rows)


def test_nuscenes_labels_are_z_corrected_for_the_vehicles_motion(tmp_path):
    write_nuscenes(tmp_path)
    (record,), report = curate_and_read("nuscenes", tmp_path, tmp_path / "out")
    assert depth_by_pixel(record) == pytest.approx(SEEN, rel=1e-4)
    assert (record.depth_type, record.scene, record.camera) == ("z", "scene-0001", "CAM_FRONT")
    # The five other cameras of the sample have no key frame here, and are counted.
    assert report["problems"] == {"key frame missing": 5}


def test_nuscenes_as_released_ignores_the_motion_and_rounds_pixels_down(tmp_path):
    write_nuscenes(tmp_path)
    (record,), _ = curate_and_read("nuscenes", tmp_path, tmp_path / "out", as_released=True)
    assert depth_by_pixel(record) != pytest.approx(SEEN, rel=1e-2)
    mounts = np.linalg.inv(make_transform("z", 0, (1.5, 0, 1.6)) @ OPTICAL_MOUNT) @ make_transform("z", 90, (0, 0, 1.8))
    sweep = np.fromfile(next((tmp_path / "samples" / "LIDAR_TOP").iterdir()), "<f4").reshape(-1, 5)[:, :3]
    cloud = transform_points(mounts, sweep.astype(float))
    expected = {}
    for x, y, z in cloud[np.argsort(-cloud[:, 2])]:
        u, v = math.floor(K[0] * x / z + K[2]), math.floor(K[1] * y / z + K[3])
        if 0 <= u < SIZE[0] and 0 <= v < SIZE[1]:
            expected[u, v] = z
    assert depth_by_pixel(record) == pytest.approx(expected, rel=1e-4)


def test_nuscenes_eval_split_is_the_mini_scenes(tmp_path):
    write_nuscenes(tmp_path, "v1.0-trainval")
    write_nuscenes(tmp_path, "v1.0-mini", scenes=("scene-0061",))
    (record,), _ = curate_and_read("nuscenes", tmp_path, tmp_path / "eval", split="eval")
    assert (record.scene, record.split) == ("scene-0061", "eval")


def test_nuscenes_released_evaluation_uses_the_last_samples_of_trainval(tmp_path):
    write_nuscenes(tmp_path, samples=20)  # 40 samples: the last 5 % are two of the second scene
    records, _ = curate_and_read("nuscenes", tmp_path, tmp_path / "out", as_released=True, split="eval")
    assert [record.image.stem for record in records] == ["scene-0061-18", "scene-0061-19"]


def test_nuscenes_rejects_an_unknown_split(tmp_path):
    with pytest.raises(UnknownName, match="choose train or eval"):
        curate_and_read("nuscenes", tmp_path, tmp_path / "out", split="test")


def test_folder_without_the_data_set_is_rejected_with_the_expected_layout(tmp_path):
    with pytest.raises(BadInput, match=r"nothing of nuScenes found. Expected: v1\.0-trainval/"):
        curate_and_read("nuscenes", tmp_path, tmp_path / "out")


def test_damaged_sweep_costs_only_its_views(tmp_path):
    write_nuscenes(tmp_path, samples=2)
    (tmp_path / "samples/LIDAR_TOP/scene-0001-1.pcd.bin").write_bytes(b"x" * 7)
    (tmp_path / "samples/CAM_FRONT/scene-0001-0.jpg").unlink()
    records, report = curate_and_read("nuscenes", tmp_path, tmp_path / "out")
    assert not records and report["problems"] == {"key frame missing": 10, "image missing": 1, "sweep malformed": 1}


# ---- DDAD


def write_ddad(root):
    """Writes one scene with one sample: CAMERA_01 and the lidar, each with its pose in the world."""
    camera, lidar = make_transform("y", 30, (5, 1, 2)), make_transform("z", -40, (4, 0, 2.5))
    cloud = np.vstack([points_at_pixels(SEEN, K), points_at_pixels(HIDDEN, K)])
    scene = root / "000150"
    (scene / "point_cloud/LIDAR").mkdir(parents=True)
    in_lidar = transform_points(np.linalg.inv(lidar) @ camera, cloud)
    np.savez(scene / "point_cloud/LIDAR/1.npz", data=np.hstack([in_lidar, np.ones((len(cloud), 1))]))
    write_image(scene / "rgb/CAMERA_01/2.png", *SIZE)

    def datum(name, key, kind, filename, axis, degrees, xyz):
        q = dict(zip(("qw", "qx", "qy", "qz"), make_quaternion(axis, degrees).tolist(), strict=True))
        pose = {"rotation": q, "translation": dict(zip("xyz", xyz, strict=True))}
        return {"id": {"name": name}, "key": key, "datum": {kind: {"filename": filename, "pose": pose}}}

    data = [
        datum("LIDAR", "l", "point_cloud", "point_cloud/LIDAR/1.npz", "z", -40, (4, 0, 2.5)),
        datum("CAMERA_01", "c", "image", "rgb/CAMERA_01/2.png", "y", 30, (5, 1, 2)),
    ]
    sample = {"calibration_key": "k", "datum_keys": ["l", "c"], "id": {"timestamp": "2019-01-01T00:00:00Z"}}
    write_file(scene / "scene_abc.json", {"samples": [sample], "data": data})
    intrinsics = [dict(zip(("fx", "fy", "cx", "cy"), k, strict=True)) for k in ((0, 0, 0, 0), K)]
    write_file(scene / "calibration/k.json", {"names": ["LIDAR", "CAMERA_01"], "intrinsics": intrinsics})
    write_file(
        root / "ddad.json", {"scene_splits": {"0": {"filenames": []}, "1": {"filenames": ["000150/scene_abc.json"]}}}
    )


def test_ddad_labels_are_z_of_the_nearest_points(tmp_path):
    write_ddad(tmp_path)
    (record,), report = curate_and_read("ddad", tmp_path, tmp_path / "out")
    assert depth_by_pixel(record) == pytest.approx(SEEN, rel=1e-4)
    assert record.intrinsics.fy_px == K[1] and report["problems"] == {"datum missing": 5}


def test_ddad_as_released_keeps_the_last_point_of_a_pixel(tmp_path):
    write_ddad(tmp_path)
    (record,), _ = curate_and_read("ddad", tmp_path, tmp_path / "out", as_released=True)
    assert 12.0 in [pytest.approx(d, rel=1e-4) for d in record.depth_m]
    assert 9.0 not in [pytest.approx(d, rel=1e-4) for d in record.depth_m]


def test_ddad_splits_come_from_its_index(tmp_path):
    write_ddad(tmp_path)
    with pytest.raises(BadInput, match="split 'train'"):
        curate_and_read("ddad", tmp_path, tmp_path / "out", split="train")
    with pytest.raises(UnknownName, match="train, val, test"):
        curate_and_read("ddad", tmp_path, tmp_path / "out", split="all")


def test_scene_that_is_not_json_is_counted(tmp_path):
    write_ddad(tmp_path)
    write_file(tmp_path / "000150/scene_abc.json", "{torn")
    _, report = curate_and_read("ddad", tmp_path, tmp_path / "out")
    assert report["problems"] == {"data malformed": 1} and report["records"] == 0


# ---- Argoverse 2

ARGO_K = (2000.0, 2010.0, 31.2, 23.4)


def write_argoverse(root, logs=("a", "b", "c")):
    """Writes drives with one front image of twice the canonical focal length, and a sweep 30 ms before it."""
    import pyarrow
    from pyarrow import feather

    mount = make_transform("z", 0, (1.6, 0, 1.4)) @ OPTICAL_MOUNT
    image_ns, sweep_ns = 2_000_000_000, 1_970_000_000
    poses = {sweep_ns: ("z", 10, (50, 7, 0)), image_ns: ("z", 12, (51, 7.2, 0))}
    cloud = np.vstack([points_at_pixels(SEEN, ARGO_K), points_at_pixels(HIDDEN, ARGO_K)])
    in_ego = transform_points(
        np.linalg.inv(make_transform(*poses[sweep_ns])) @ make_transform(*poses[image_ns]) @ mount, cloud
    )

    def write(path, columns):
        path.parent.mkdir(parents=True, exist_ok=True)
        feather.write_feather(pyarrow.table(columns), path)

    def rows(names, quaternions, translations):
        q, t = np.array(quaternions, float), np.array(translations, float)
        wxyz = {f"q{axis}": q[:, i] for i, axis in enumerate("wxyz")}
        return {**names, **wxyz, **{f"t{axis}_m": t[:, i] for i, axis in enumerate("xyz")}}

    for log in logs:
        folder = root / "val" / log
        pinhole = dict(zip(("fx_px", "fy_px", "cx_px", "cy_px"), ([value] for value in ARGO_K), strict=True))
        size = {"width_px": [SIZE[0]], "height_px": [SIZE[1]]}
        write(folder / "calibration/intrinsics.feather", {"sensor_name": ["ring_front_center"], **pinhole, **size})
        mounts = rows({"sensor_name": ["ring_front_center"]}, [OPTICAL_QUATERNION], [(1.6, 0, 1.4)])
        write(folder / "calibration/egovehicle_SE3_sensor.feather", mounts)
        turns = [make_quaternion(axis, degrees) for axis, degrees, _ in poses.values()]
        write(
            folder / "city_SE3_egovehicle.feather",
            rows({"timestamp_ns": list(poses)}, turns, [xyz for *_, xyz in poses.values()]),
        )
        write(folder / f"sensors/lidar/{sweep_ns}.feather", {a: in_ego[:, i] for i, a in enumerate("xyz")})
        write(folder / "sensors/lidar/1000000000.feather", {a: np.zeros(1) for a in "xyz"})
        write_image(folder / f"sensors/cameras/ring_front_center/{image_ns}.jpg", *SIZE)


@pytest.mark.torch
def test_argoverse_points_follow_the_vehicle_and_the_shrunk_image(tmp_path):
    write_argoverse(tmp_path)
    records, report = curate_and_read("argoverse2", tmp_path, tmp_path / "out")
    assert len(records) == 3 and report["problems"] == {}
    record = records[0]
    assert record.intrinsics.size_px == (32, 24) and record.intrinsics.fx_px == 1000.0
    halved = {((u + 0.5) / 2 - 0.5, (v + 0.5) / 2 - 0.5): z for (u, v), z in SEEN.items()}
    assert depth_by_pixel(record) == pytest.approx(halved, rel=1e-4)
    # A pixel has the same ray in the shrunk camera as in the original one.
    u, v = record.uv_px[0]
    large_u, large_v = (u + 0.5) * 2 - 0.5, (v + 0.5) * 2 - 0.5
    assert (u - record.intrinsics.cx_px) / record.intrinsics.fx_px == pytest.approx((large_u - ARGO_K[2]) / ARGO_K[0])
    assert (v - record.intrinsics.cy_px) / record.intrinsics.fy_px == pytest.approx((large_v - ARGO_K[3]) / ARGO_K[1])


@pytest.mark.torch
def test_argoverse_as_released_reads_two_drives_and_labels_the_ray(tmp_path):
    write_argoverse(tmp_path)
    records, _ = curate_and_read("argoverse2", tmp_path, tmp_path / "out", as_released=True)
    assert len(records) == 2 and records[0].depth_type == "range"
    fx, fy, cx, cy = ARGO_K
    seen = SEEN | HIDDEN  # any point of a pixel
    rays = {
        (u // 2, v // 2): z * math.sqrt(1 + ((u - cx) / fx) ** 2 + ((v - cy) / fy) ** 2) for (u, v), z in seen.items()
    }
    assert depth_by_pixel(records[0]) == pytest.approx(rays, rel=1e-4)


@pytest.mark.torch
def test_argoverse_for_depthvlm_has_original_images_and_z_maps(tmp_path):
    from depthlm_ros.data.depthfile import read_z

    write_argoverse(tmp_path, logs=("a",))
    (record,), _ = curate_and_read("argoverse2", tmp_path, tmp_path / "out", format="depthvlm")
    assert record.image.parent.name == "ring_front_center" and record.intrinsics.fx_px == 2000.0
    assert depth_by_pixel(record) == pytest.approx(SEEN, rel=1e-4)
    z_m = read_z(record)
    assert {(u, v): z_m[v, u] for u, v in SEEN} == pytest.approx(SEEN, abs=1 / 256)
    assert np.isfinite(z_m).sum() == len(SEEN)


@pytest.mark.torch
def test_damaged_table_costs_only_its_drive(tmp_path):
    write_argoverse(tmp_path)
    write_file(tmp_path / "val/b/city_SE3_egovehicle.feather", "torn")
    (tmp_path / "val/c/sensors/lidar/1970000000.feather").unlink()
    (tmp_path / "val/c/sensors/lidar/1000000000.feather").unlink()
    records, report = curate_and_read("argoverse2", tmp_path, tmp_path / "out")
    assert len(records) == 1 and report["problems"] == {"table unreadable": 1, "sweep missing": 1}


# ---- Waymo

LENS = {
    "f_u": 40.0,
    "f_v": 41.0,
    "c_u": 32.0,
    "c_v": 24.5,
    "k1": -0.15,
    "k2": 0.05,
    "p1": 0.001,
    "p2": -0.002,
    "k3": 0.0,
}
STAMP = 1_000_000
# The two middle columns of a range image of eight columns look 22.5 degrees to the left and to the right.
LEFT, RIGHT, SIDE = 3, 4, math.radians(22.5)
LEFT_M, RIGHT_M = 10.0, 20.0
LEFT_PX, RIGHT_PX = (6, 38), (55, 9)


def write_waymo(root, beam_moved_m=0.0):
    """Writes one frame of the front camera, which is beside the top lidar, with two beams of the lidar."""
    import cv2
    import pyarrow
    from pyarrow import parquet

    def write(component, columns):
        path = root / "training" / component / "segment.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.table(columns), path)

    def image(name, values):
        return {
            f"{name}.range_image_return1.values": [values.ravel()],
            f"{name}.range_image_return1.shape": [list(values.shape)],
        }

    world = make_transform("z", 33, (500, 600, 7))
    ranges = np.zeros((1, 8, 4), np.float32)
    ranges[0, LEFT, 0], ranges[0, RIGHT, 0] = LEFT_M, RIGHT_M
    pixels = np.zeros((1, 8, 6), np.int32)
    pixels[0, LEFT, :3], pixels[0, RIGHT, 3:] = (1, *LEFT_PX), (1, *RIGHT_PX)
    poses = np.zeros((1, 8, 6), np.float32)
    poses[..., 2], poses[..., 3:] = math.radians(33), (500, 600, 7)
    poses[0, LEFT, 3:] = transform_points(world, np.array([[beam_moved_m, 0, 0]]))[0]
    keys = {"key.frame_timestamp_micros": [STAMP], "key.laser_name": pyarrow.array([1], pyarrow.int8())}
    write("lidar", keys | image("[LiDARComponent]", ranges))
    write("lidar_camera_projection", keys | image("[LiDARCameraProjectionComponent]", pixels))
    write("lidar_pose", keys | image("[LiDARPoseComponent]", poses))
    beam = "[LiDARCalibrationComponent].beam_inclination"
    write(
        "lidar_calibration",
        {"key.laser_name": [1], "[LiDARCalibrationComponent].extrinsic.transform": [np.eye(4).ravel()]}
        | {f"{beam}.min": [-0.1], f"{beam}.max": [0.1], f"{beam}.values": pyarrow.array([[0.0]])},
    )
    write(
        "vehicle_pose",
        {"key.frame_timestamp_micros": [STAMP], "[VehiclePoseComponent].world_from_vehicle.transform": [world.ravel()]},
    )
    calibration = "[CameraCalibrationComponent]"
    write(
        "camera_calibration",
        {"key.camera_name": [1], f"{calibration}.extrinsic.transform": [make_transform("z", 0, (0, 0.5, 0)).ravel()]}
        | {f"{calibration}.width": [64], f"{calibration}.height": [48]}
        | {f"{calibration}.intrinsic.{name}": [value] for name, value in LENS.items()},
    )
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 99, np.uint8))[1].tobytes()
    names = {"key.frame_timestamp_micros": [STAMP, STAMP + 1], "key.camera_name": [1, 1]}
    write("camera_image", names | {"[CameraImageComponent].image": [jpeg, jpeg]})


def undistorted(pixel):
    """Returns the undistorted pixel of a distorted one, by a search over an independent distortion formula."""
    target = ((pixel[0] - (LENS["c_u"] - 0.5)) / LENS["f_u"], (pixel[1] - (LENS["c_v"] - 0.5)) / LENS["f_v"])
    x, y = target
    for _ in range(200):
        r2 = x * x + y * y
        radial = 1 + LENS["k1"] * r2 + LENS["k2"] * r2 * r2
        dx = 2 * LENS["p1"] * x * y + LENS["p2"] * (r2 + 2 * x * x)
        dy = LENS["p1"] * (r2 + 2 * y * y) + 2 * LENS["p2"] * x * y
        x, y = (target[0] - dx) / radial, (target[1] - dy) / radial
    return round(LENS["f_u"] * x + 31.5), round(LENS["f_v"] * y + 23.5)


@pytest.mark.torch
def test_waymo_beams_become_z_at_undistorted_pixels(tmp_path):
    write_waymo(tmp_path)
    (record,), report = curate_and_read("waymo", tmp_path, tmp_path / "out")
    expected = {undistorted(LEFT_PX): LEFT_M * math.cos(SIDE), undistorted(RIGHT_PX): RIGHT_M * math.cos(SIDE)}
    assert undistorted(LEFT_PX) != LEFT_PX
    assert depth_by_pixel(record) == pytest.approx(expected, rel=1e-4)
    assert record.intrinsics.cx_px == 31.5 and record.camera == "FRONT" and record.split == "training"
    assert report["problems"] == {"sweep missing": 1}  # the second image has none


@pytest.mark.torch
def test_waymo_beams_are_moved_from_their_own_time(tmp_path):
    write_waymo(tmp_path, beam_moved_m=1.0)
    (record,), _ = curate_and_read("waymo", tmp_path, tmp_path / "out")
    assert depth_by_pixel(record)[undistorted(LEFT_PX)] == pytest.approx(LEFT_M * math.cos(SIDE) + 1.0, rel=1e-4)


@pytest.mark.torch
def test_waymo_as_released_labels_the_ray_at_pixels_of_the_inverse_map(tmp_path):
    write_waymo(tmp_path)
    (record,), _ = curate_and_read("waymo", tmp_path, tmp_path / "out", as_released=True)
    assert record.depth_type == "range"
    right = np.array([RIGHT_M * math.cos(SIDE), -RIGHT_M * math.sin(SIDE) - 0.5])
    assert max(record.depth_m) == pytest.approx(np.linalg.norm(right), rel=1e-4)
    assert undistorted(RIGHT_PX) not in depth_by_pixel(record)


@pytest.mark.torch
def test_waymo_segment_without_a_table_is_counted(tmp_path):
    write_waymo(tmp_path)
    (tmp_path / "training/lidar_pose/segment.parquet").unlink()
    _, report = curate_and_read("waymo", tmp_path, tmp_path / "out")
    assert report["problems"] == {"table unreadable": 1} and report["records"] == 0


def test_report_is_written_beside_the_records(tmp_path):
    write_ddad(tmp_path)
    _, report = curate_and_read("ddad", tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out/ddad.report.json").read_text()) == report
    assert report["as_released"] is False and report["points"] == 3

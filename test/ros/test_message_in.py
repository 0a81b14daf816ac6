# SPDX-License-Identifier: Apache-2.0
"""Every encoding keeps its colours, and a message whose numbers do not fit is refused."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from depthlm_ros.errors import BadImage, BadIntrinsics
from depthlm_ros.ros.message_in import ENCODINGS, camera_from_info, compressed_to_rgb, image_to_rgb, info_key

WIDTH, HEIGHT = 12, 8
# Four quadrants: a wrong channel order, a mirrored Bayer pattern or swapped chroma changes at least one.
QUADRANTS = [[(200, 40, 60), (30, 180, 70)], [(50, 60, 210), (190, 180, 30)]]


def quadrants() -> np.ndarray:
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for row in range(2):
        for column in range(2):
            rgb[row * HEIGHT // 2 :, column * WIDTH // 2 :] = QUADRANTS[row][column]
    return rgb


def luma_chroma(rgb: np.ndarray) -> np.ndarray:
    """Returns (H, W, 3) Y, Cb, Cr by the formula of ITU-R BT.601 with limited range."""
    red, green, blue = np.moveaxis(rgb.astype(np.float64) / 255.0, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = (blue - luma) / 1.772, (red - luma) / 1.402
    return np.stack([16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr], axis=-1).round().astype(np.uint8)


def grey(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 1]


def bayer(rgb: np.ndarray, pattern: str) -> np.ndarray:
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    return mosaic


def packed_422(rgb: np.ndarray, order: str) -> np.ndarray:
    yuv = luma_chroma(rgb)
    values = {"y": yuv[:, 0::2, 0], "z": yuv[:, 1::2, 0], "u": yuv[:, 0::2, 1], "v": yuv[:, 0::2, 2]}
    return np.stack([values[name] for name in order], axis=-1).reshape(rgb.shape[0], -1)


def planar_420(rgb: np.ndarray, first_chroma: int) -> np.ndarray:
    yuv = luma_chroma(rgb)
    chroma = yuv[::2, ::2, [first_chroma, 3 - first_chroma]].reshape(rgb.shape[0] // 2, -1)
    return np.concatenate([yuv[..., 0], chroma])


def as_16_bits(values: np.ndarray) -> np.ndarray:
    """Returns the bytes of the rows: 255 becomes 65535."""
    return (values.astype("<u2") * 257).view(np.uint8).reshape(HEIGHT, -1)


PATTERNS = ("rggb", "bggr", "gbrg", "grbg")
# Encoding -> rows of bytes as a camera driver would store them.
STORED = {
    "rgb8": lambda rgb: rgb.reshape(HEIGHT, -1),
    "bgr8": lambda rgb: rgb[..., ::-1].reshape(HEIGHT, -1),
    "rgba8": lambda rgb: np.dstack([rgb, np.full((HEIGHT, WIDTH), 7, np.uint8)]).reshape(HEIGHT, -1),
    "bgra8": lambda rgb: np.dstack([rgb[..., ::-1], np.full((HEIGHT, WIDTH), 7, np.uint8)]).reshape(HEIGHT, -1),
    "mono8": grey,
    "mono16": lambda rgb: as_16_bits(grey(rgb)),
    **{f"bayer_{name}8": lambda rgb, name=name: bayer(rgb, name) for name in PATTERNS},
    **{f"bayer_{name}16": lambda rgb, name=name: as_16_bits(bayer(rgb, name)) for name in PATTERNS},
    "yuv422": lambda rgb: packed_422(rgb, "uyvz"),
    "uyvy": lambda rgb: packed_422(rgb, "uyvz"),
    "yuv422_yuy2": lambda rgb: packed_422(rgb, "yuzv"),
    "yuyv": lambda rgb: packed_422(rgb, "yuzv"),
    "nv12": lambda rgb: planar_420(rgb, 1),
    "nv21": lambda rgb: planar_420(rgb, 2),
}


def message(encoding: str, rows: np.ndarray, padding: int = 0, big_endian: bool = False, **fields) -> SimpleNamespace:
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=171)
    values = {"width": WIDTH, "height": HEIGHT, "step": padded.shape[1], "data": bytearray(padded.tobytes())}
    return SimpleNamespace(encoding=encoding, is_bigendian=int(big_endian), **{**values, **fields})


def inside_quadrants(rgb: np.ndarray) -> np.ndarray:
    """One pixel well inside each quadrant, where interpolation across its border does not reach."""
    return rgb[[2, 2, 6, 6], [2, 9, 2, 9]].astype(int)


def assert_shows_quadrants(rgb: np.ndarray, encoding: str) -> None:
    assert rgb.dtype == np.uint8 and rgb.shape == (HEIGHT, WIDTH, 3)
    expected = inside_quadrants(quadrants())
    if encoding.startswith("mono"):
        expected = expected[:, [1, 1, 1]]
    tolerance = 4 if encoding.startswith(("yu", "uyvy", "nv")) else 0
    assert np.abs(inside_quadrants(rgb) - expected).max() <= tolerance


def test_every_known_encoding_is_tested():
    assert set(STORED) == set(ENCODINGS)


@pytest.mark.parametrize("padding", [0, 5, 64])
@pytest.mark.parametrize("encoding", STORED)
def test_colours_survive(encoding, padding):
    image = message(encoding, STORED[encoding](quadrants()), padding)
    assert_shows_quadrants(image_to_rgb(image), encoding)


@pytest.mark.parametrize("encoding", STORED)
def test_last_row_may_lack_its_padding(encoding):
    image = message(encoding, STORED[encoding](quadrants()), padding=6)
    image.data = image.data[:-6]
    assert_shows_quadrants(image_to_rgb(image), encoding)


def test_big_endian_mono16_gives_the_same_picture():
    rows = STORED["mono16"](quadrants())
    swapped = rows.reshape(HEIGHT, WIDTH, 2)[..., ::-1].reshape(HEIGHT, -1)
    image = message("mono16", swapped, padding=3, big_endian=True)
    assert_shows_quadrants(image_to_rgb(image), "mono16")


def test_byte_order_does_not_affect_single_bytes():
    image = message("bgr8", STORED["bgr8"](quadrants()), big_endian=True)
    assert_shows_quadrants(image_to_rgb(image), "bgr8")


def test_mono16_uses_the_full_range_of_16_bits():
    levels = np.linspace(0, 65535, WIDTH).round().astype("<u2")
    rows = np.tile(levels, (HEIGHT, 1)).view(np.uint8)
    rgb = image_to_rgb(message("mono16", rows))
    assert np.abs(rgb[0, :, 0].astype(float) - levels / 257.0).max() <= 0.51


def test_rgb8_without_padding_is_not_copied_and_cannot_be_written():
    image = message("rgb8", STORED["rgb8"](quadrants()))
    rgb = image_to_rgb(image)
    image.data[0] = 99
    assert rgb[0, 0, 0] == 99
    with pytest.raises(ValueError, match="read-only"):
        rgb[0, 0, 0] = 1


@pytest.mark.parametrize("encoding", STORED)
def test_short_buffer_is_refused_with_both_sizes(encoding):
    image = message(encoding, STORED[encoding](quadrants()))
    image.data = image.data[:-1]
    with pytest.raises(BadImage, match=rf"needs {len(image.data) + 1} bytes.*holds {len(image.data)}"):
        image_to_rgb(image)


@pytest.mark.parametrize("encoding", STORED)
def test_step_shorter_than_a_row_is_refused(encoding):
    image = message(encoding, STORED[encoding](quadrants()))
    image.step -= 1
    with pytest.raises(BadImage, match=f"step {image.step}"):
        image_to_rgb(image)


@pytest.mark.parametrize("encoding", STORED)
@pytest.mark.parametrize("size", [{"width": 0}, {"height": 0}, {"width": 0, "height": 0}])
def test_empty_image_is_refused(encoding, size):
    with pytest.raises(BadImage, match=r"at least [13] pixel"):
        image_to_rgb(message(encoding, STORED[encoding](quadrants()), **size))


@pytest.mark.parametrize(
    ("encoding", "size"),
    [("nv12", {"height": 7}), ("nv21", {"width": 11}), ("yuyv", {"width": 11}), ("yuv422", {"width": 3})],
)
def test_odd_sizes_are_refused_where_pixels_share_chroma(encoding, size):
    number = next(iter(size.values()))
    with pytest.raises(BadImage, match=f"{number}.*even"):
        image_to_rgb(message(encoding, STORED[encoding](quadrants()), **size))


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_gbrg8"])
@pytest.mark.parametrize(("width", "height"), [(3, 3), (5, 3), (4, 9)])
def test_bayer_image_of_any_size_gives_an_image_of_its_size(encoding, width, height):
    rows = np.full((height, width), 80, np.uint8)
    rgb = image_to_rgb(message(encoding, rows, width=width, height=height))
    assert rgb.shape == (height, width, 3) and (rgb == 80).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 8), (12, 1), (2, 2)])
def test_bayer_image_too_small_for_its_pattern_is_refused(width, height):
    rows = np.full((height, width), 80, np.uint8)
    with pytest.raises(BadImage, match=f"{width} x {height}.*at least 3"):
        image_to_rgb(message("bayer_rggb8", rows, width=width, height=height))


def test_sizes_beyond_memory_are_refused_before_anything_is_allocated():
    image = message("rgb8", STORED["rgb8"](quadrants()), width=2**31, height=2**31, step=2**32 - 1)
    with pytest.raises(BadImage):
        image_to_rgb(image)


@pytest.mark.parametrize("name", ["", "rgb9", "32FC1", "bayer_xyz8", "rgb8\x00"])
def test_unknown_encoding_is_named_together_with_the_known_ones(name):
    with pytest.raises(BadImage) as caught:
        image_to_rgb(message(name, STORED["rgb8"](quadrants())))
    assert repr(name) in str(caught.value) and "bgr8" in str(caught.value)


def compressed(suffix: str, image_format: str, rgb: np.ndarray | None = None) -> SimpleNamespace:
    rgb = np.kron(quadrants(), np.ones((16, 16, 1), np.uint8)) if rgb is None else rgb
    encoded = cv2.imencode(suffix, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    return SimpleNamespace(format=image_format, data=bytearray(encoded.tobytes()))


FORMATS = [
    (".jpg", "jpeg"),
    (".png", "png"),
    (".jpg", "rgb8; jpeg compressed bgr8"),
    (".png", "bgr8; png compressed bgr8"),
    (".jpg", "bayer_rggb8; jpeg compressed bgr8"),
    (".jpg", "rgb8; jpeg"),  # describes only the camera, not what the codec got
]


@pytest.mark.parametrize(("suffix", "image_format"), FORMATS)
def test_compressed_colours_survive(suffix, image_format):
    rgb = compressed_to_rgb(compressed(suffix, image_format))
    small = rgb[8::16, 8::16]
    assert np.abs(inside_quadrants(small) - inside_quadrants(quadrants())).max() <= 6


def mosaic_of(pattern: str, bits: int = 8) -> np.ndarray:
    """Returns quadrants as a Bayer camera sees them, 16 times as large."""
    mosaic = bayer(np.kron(quadrants(), np.ones((16, 16, 1), np.uint8)), pattern)
    return mosaic if bits == 8 else mosaic.astype(np.uint16) * 257


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("suffix", "bits", "rest"),
    [
        (".jpg", 8, "8; jpeg compressed "),
        (".png", 8, "8; png compressed"),
        (".png", 8, "8;png compressed mono8"),
        (".jpg", 8, "8"),
        (".png", 16, "16; png compressed "),
        (".jpg", 8, "16; jpeg compressed "),
    ],
)
def test_a_compressed_mosaic_becomes_a_colour_picture(pattern, suffix, bits, rest):
    encoded = cv2.imencode(suffix, mosaic_of(pattern, bits), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    message = SimpleNamespace(format=f"bayer_{pattern}{rest}", data=bytearray(encoded.tobytes()))
    rgb = compressed_to_rgb(message)[8::16, 8::16]
    assert np.abs(inside_quadrants(rgb) - inside_quadrants(quadrants())).max() <= 4


def test_a_mosaic_that_was_written_as_three_equal_channels_is_one():
    image = compressed(".png", "bayer_rggb8; png compressed ", np.repeat(mosaic_of("rggb")[..., None], 3, axis=2))
    rgb = compressed_to_rgb(image)[8::16, 8::16]
    assert np.array_equal(inside_quadrants(rgb), inside_quadrants(quadrants()))


def test_colours_of_a_bayer_camera_are_not_demosaiced_again():
    image = compressed(".png", "bayer_rggb8; png compressed bgr8", np.full((40, 40, 3), 90, np.uint8))
    assert (compressed_to_rgb(image) == 90).all()


@pytest.mark.parametrize("name", ["bayer_xyzw8", "bayer", "bayerrg8"])
def test_a_compressed_mosaic_of_an_unknown_pattern_is_refused_with_the_known_ones(name):
    encoded = cv2.imencode(".png", mosaic_of("rggb"))[1]
    with pytest.raises(BadImage, match=f"{name}.*bayer_rggb8.*name the pattern"):
        compressed_to_rgb(SimpleNamespace(format=f"{name}; png compressed ", data=bytearray(encoded.tobytes())))


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 4)])
@pytest.mark.parametrize(("bit_depth", "white"), [(16, 65535), (12, 4095), (10, 1023)])
def test_a_png_of_16_bits_is_as_bright_as_its_bits_in_use(shape, bit_depth, white):
    values = np.linspace(0, white, int(np.prod(shape))).astype(np.uint16).reshape(shape)
    data = bytearray(cv2.imencode(".png", values)[1].tobytes())
    rgb = compressed_to_rgb(SimpleNamespace(format="png", data=data), bit_depth)
    expected = values if values.ndim == 2 else values[..., [2, 1, 0]]
    expected = np.broadcast_to(expected.reshape(HEIGHT, WIDTH, -1), rgb.shape)
    assert rgb.dtype == np.uint8 and np.abs(rgb - expected * (255.0 / white)).max() <= 0.51


@pytest.mark.parametrize("encoding", ["mono16", "bayer_grbg16"])
def test_bits_that_the_sensor_does_not_use_are_left_out(encoding):
    rows = np.full((HEIGHT, WIDTH), 512, "<u2").view(np.uint8)
    assert (image_to_rgb(message(encoding, rows)) == 2).all()
    assert (image_to_rgb(message(encoding, rows), bit_depth=10) == 128).all()
    assert (image_to_rgb(message(encoding, rows), bit_depth=8) == 255).all()


def test_a_jpeg_without_its_end_marker_is_taken_if_its_last_rows_are_there():
    image = compressed(".jpg", "jpeg")
    whole = compressed_to_rgb(image)
    image.data = image.data[:-2]
    assert np.array_equal(compressed_to_rgb(image), whole)
    image.data = image.data[:-30]
    with pytest.raises(BadImage, match="cut short"):
        compressed_to_rgb(image)


def test_channels_of_an_image_compressed_as_rgb_are_not_swapped():
    swapped = quadrants()[..., ::-1]
    rgb = compressed_to_rgb(compressed(".png", "rgb8; png compressed rgb8", swapped))
    assert np.array_equal(rgb, quadrants())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_compressed_image_is_refused(suffix, kept):
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    image = compressed(suffix, suffix, noise)
    image.data = image.data[: int(len(image.data) * kept)]
    with pytest.raises(BadImage, match="cut short"):
        compressed_to_rgb(image)


@pytest.mark.parametrize("data", [b"", b"\x00", b"no image at all", b"\xff\xd8\xff\xd9", b"\x89PNGIEND"])
def test_data_that_is_not_a_picture_is_refused(data):
    with pytest.raises(BadImage):
        compressed_to_rgb(SimpleNamespace(format="jpeg", data=bytearray(data)))


def test_padding_after_the_end_of_a_jpeg_is_ignored():
    image = compressed(".jpg", "jpeg")
    image.data += bytes(200)
    assert compressed_to_rgb(image).shape == (HEIGHT * 16, WIDTH * 16, 3)


def info(**fields) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    values = {"width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.1, 0.0, 0.0, 0.0, 0.0]}
    values |= {"k": np.array([500.0, 0, 320, 0, 510, 240, 0, 0, 1]), "r": np.eye(3).ravel(), "p": np.zeros(12)}
    values |= {"binning_x": 0, "binning_y": 0, "roi": roi}
    return SimpleNamespace(**{**values, **fields})


def test_camera_info_is_converted_to_its_camera():
    camera = camera_from_info(info(binning_x=2, binning_y=2))
    assert camera.delivered_size_px == (320, 240)
    assert camera.rectified_intrinsics.fx_px == 250.0 and camera.rectified_intrinsics.cy_px == 120.0
    assert camera.d[0] == 0.1


@pytest.mark.parametrize("value", [0.0, float("nan"), -5.0])
def test_camera_without_a_focal_length_is_refused_with_the_value(value):
    with pytest.raises(BadIntrinsics, match=rf"fx = {value}"):
        camera_from_info(info(k=np.array([value, 0, 320, 0, 510, 240, 0, 0, 1])))


def test_camera_of_rectified_images_needs_only_p():
    raw = {"k": np.zeros(9), "r": np.zeros(9), "d": [float("nan")], "distortion_model": "mei"}
    p = np.array([450.0, 0, 310, 0, 0, 460, 250, 0, 0, 0, 1, 0])
    camera = camera_from_info(info(**raw, p=p), is_rectified=True)
    assert (camera.rectified_intrinsics.fx_px, camera.rectified_intrinsics.cy_px) == (450.0, 250.0)
    with pytest.raises(BadIntrinsics):
        camera_from_info(info(**raw, p=p))


def test_key_depends_on_every_number_of_a_calibration_but_not_on_its_stamp():
    roi = SimpleNamespace(x_offset=2, y_offset=0, width=4, height=4, do_rectify=False)
    changes = [{"width": 641}, {"d": [0.2, 0, 0, 0, 0]}, {"k": np.ones(9)}, {"p": np.ones(12)}, {"r": np.ones(9)}]
    changes += [{"distortion_model": "equidistant"}, {"binning_x": 2}, {"binning_y": 2}, {"roi": roi}]
    keys = {info_key(info(**change)) for change in changes}
    assert len(keys) == len(changes) and info_key(info()) not in keys
    assert info_key(info(header="one")) == info_key(info(header="two"))

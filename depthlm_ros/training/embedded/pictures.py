# SPDX-License-Identifier: Apache-2.0
"""The pictures of a training, from every source in one form, and their sources.

A `Picture` has depth at a quarter of the canvas's size and, for every image token, which things it shows. Rendered
pictures, photographs with teachers' labels and frames of depth sensors are placed on the canvas as a camera would be at
run time. `PictureSources` opens the folders that the user names.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from depthlm_ros.core import Intrinsics
from depthlm_ros.data.depthfile import read_z
from depthlm_ros.data.photo_labels import UNKNOWN_SEGMENT, PhotoBox, PhotoLabels, decode
from depthlm_ros.data.records import Record, RecordProblem
from depthlm_ros.data.sensor_frames import TRAIN, read_sensor_frames
from depthlm_ros.data.webdataset import ShardIndex
from depthlm_ros.errors import BadInput, SetupError
from depthlm_ros.geometry.camera_model import UNSEEN_GREY
from depthlm_ros.image_io import read_rgb
from depthlm_ros.scenes.camera.lens import sample_lens
from depthlm_ros.scenes.camera.photo import jitter_tones, photograph, recolour
from depthlm_ros.scenes.camera.viewpoints import (
    sample_close_scene_and_pose,
    sample_far_scene_and_pose,
    sample_scene_and_pose,
    sample_street_scene_and_pose,
)
from depthlm_ros.scenes.renderer.render import RenderedImage, render
from depthlm_ros.training.embedded.names import NAMES, UNKNOWN, photo_names, rendered_names
from depthlm_ros.training.embedded.recipe import PictureSettings, SourceShares

DEPTH_STRIDE_PX, TOKEN_PX = 4, 16
# Kinds of rendered pictures: usual rooms, and the ranges that these lack.
SCENES = {
    "rendered": sample_scene_and_pose,
    "far": sample_far_scene_and_pose,
    "close": sample_close_scene_and_pose,
    "streets": sample_street_scene_and_pose,
}
# Reasons of problems with photographs and frames.
UNREADABLE, BOX_OUTSIDE = "picture unreadable", "box outside of its photograph"
# Samples of photographs that cannot be read are skipped, but not a whole source of them.
MOST_TRIES = 50
# A place that many frames of a source show counts no more than this many.
MOST_FRAMES_OF_PLACE = 40
# Spread (in ln) of the aspect of photographs, which some sources have stretched.
ASPECT_SPREAD = 0.05
# Of a box that the canvas cuts, this share must remain.
LEAST_BOX_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture on a canvas of (H, W) pixels.

    image: uint8 (H, W, 3). depth_m: float32 (H/4, W/4), NaN unknown. names: int8 (N, len(NAMES)), see names.py.
    """

    image: np.ndarray
    depth_m: np.ndarray
    names: np.ndarray


@dataclass(frozen=True, eq=False)
class PhotoPicture(Picture):
    """A photograph. boxes: in pixels of the canvas. segments: uint8 (H/4, W/4), None if unknown. labels: as read."""

    boxes: tuple[PhotoBox, ...]
    segments: np.ndarray | None
    labels: PhotoLabels


@dataclass(frozen=True, eq=False)
class RenderedPicture(Picture):
    """A rendered picture. rendered: its truth inside the camera's field. true_colours: whether colours can be named."""

    rendered: RenderedImage
    true_colours: bool


class PictureSources:
    """The photographs and sensor frames of a training, opened once in each process.

    photos: folder with shards of photographs. frames: folder with labels.jsonl of sensor frames; only those whose use
    is "train" are read. problems: what was left out while they were opened, and why; `take_problems` gives what was
    found wrong later. Raises BadInput if a folder has nothing to train on.
    """

    def __init__(self, photos: Path | None = None, frames: Path | None = None) -> None:
        self.problems: list[RecordProblem] = []
        self._found_later: list[RecordProblem] = []
        self._photos = ShardIndex(photos, ("jpg", "depth.png", "json")) if photos is not None else None
        if self._photos is not None:
            self.problems += self._photos.problems
        self._places: list[list[Record]] = []
        if frames is not None:
            self._places = group_places([frame.record for frame in read_sensor_frames(frames, TRAIN, self.problems)])
        counts = np.array([min(len(place), MOST_FRAMES_OF_PLACE) for place in self._places], float)
        self._place_shares = np.sqrt(counts) / max(np.sqrt(counts).sum(), 1e-9)

    @property
    def has_photos(self) -> bool:
        """Whether there are photographs."""
        return self._photos is not None

    def __len__(self) -> int:
        """Returns the number of photographs and frames."""
        return (len(self._photos) if self._photos is not None else 0) + sum(map(len, self._places))

    def take_problems(self) -> tuple[RecordProblem, ...]:
        """Returns what was found wrong with pictures since the last call."""
        found, self._found_later = tuple(self._found_later), []
        return found

    def check_shares(self, shares: SourceShares) -> None:
        """Raises SetupError if a share asks for pictures whose folder was not named."""
        if shares.photos and self._photos is None:
            raise SetupError(
                "the recipe mixes photographs: name their folder with --photos, or set shares.photos to 0."
            )
        if shares.frames and not self._places:
            raise SetupError("the recipe mixes sensor frames: name a folder with --frames, or set shares.frames to 0.")

    def draw_photo(self, rng: np.random.Generator) -> PhotoLabels:
        """Draws a photograph; one that cannot be read is a problem. Raises BadInput if many in a row are."""
        if self._photos is None:
            raise BadInput("there are no photographs: name their folder with --photos.")
        for _ in range(MOST_TRIES):
            try:
                sample = self._photos[int(rng.integers(len(self._photos)))]
                labels = decode(sample)
            except BadInput as exc:
                self._skip(exc)
                continue
            if labels.dropped_boxes:
                message = f"{labels.dropped_boxes} boxes lie outside of the photograph or are empty"
                where = f"{sample['__url__']}: sample {sample['__key__']}"
                self._found_later.append(RecordProblem(where, BOX_OUTSIDE, message, labels.dropped_boxes))
            return labels
        raise BadInput(
            f"{MOST_TRIES} photographs in a row cannot be read; the last one: {self._found_later[-1].message}"
        )

    def draw_frame(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Intrinsics]:
        """Draws a frame: image uint8 (H, W, 3), depth_m float32 (h, w), NaN unknown, and the image's intrinsics."""
        if not self._places:
            raise BadInput("there are no sensor frames: name their folder with --frames.")
        for _ in range(MOST_TRIES):
            place = self._places[int(rng.choice(len(self._places), p=self._place_shares))]
            record = place[int(rng.integers(len(place)))]
            try:
                return read_rgb(record.image), read_z(record), record.intrinsics
            except BadInput as exc:
                self._skip(exc)
        raise BadInput(f"{MOST_TRIES} frames in a row cannot be read; the last one: {self._found_later[-1].message}")

    def _skip(self, exc: BadInput) -> None:
        self._found_later.append(RecordProblem("skipped", UNREADABLE, str(exc)))


def group_places(records: list[Record]) -> list[list[Record]]:
    """Groups frames by place: the first folder of the image's scene, without the number of a sequence in it."""
    places: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        folder = record.image.parent.name
        places["_".join(folder.split("_")[:2])].append(record)
    return [places[name] for name in sorted(places)]


def draw_rendered(
    rng: np.random.Generator, settings: PictureSettings, camera: Intrinsics, kind: str = "rendered"
) -> RenderedPicture:
    """Renders a picture. kind: a key of SCENES."""
    scene, pose = SCENES[kind](rng)
    lens = sample_lens(rng, camera) if rng.random() < settings.lens_share else None
    rendered, outside = mask_outside(rng, render(scene, pose, camera, lens))
    image = jitter_tones(rng, photograph(rng, rendered))
    true_colours = rng.random() >= settings.recoloured_share
    if not true_colours:
        image = recolour(rng, image, rendered.object_id)
    image[outside] = UNSEEN_GREY
    depth_m = quarter_depth(rendered.depth_m)
    return RenderedPicture(image, depth_m, rendered_names(rendered, TOKEN_PX), rendered, true_colours)


def mask_outside(rng: np.random.Generator, rendered: RenderedImage) -> tuple[RenderedImage, np.ndarray]:
    """Keeps a random rectangle of a picture, as a camera that does not fill the canvas would.

    Returns the picture without depth and objects outside the rectangle, and bool (H, W) of what lies outside.
    """
    height, width = rendered.depth_m.shape
    outside = np.zeros((height, width), bool)
    if rng.random() < 0.7:
        w, h = (int(extent * rng.uniform(0.7, 1.0)) for extent in (width, height))
        # Mostly centred, as the principal point is; sometimes shifted, as that of an off-centre camera.
        x, y = ((extent - inner) // 2 for extent, inner in ((width, w), (height, h)))
        if rng.random() < 0.2:
            x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        outside[:] = True
        outside[y : y + h, x : x + w] = False
    depth_m = np.where(outside, np.nan, rendered.depth_m).astype(np.float32)
    object_id = np.where(outside, -1, rendered.object_id).astype(rendered.object_id.dtype)
    return replace(rendered, depth_m=depth_m, object_id=object_id), outside


def quarter_depth(depth_m: np.ndarray) -> np.ndarray:
    """Returns float32 (H/4, W/4): the geometric mean of the four middle pixels of each square, NaN if one is unknown.

    depth_m: (H, W).
    """
    ln_z = np.log(depth_m)
    middle = [ln_z[row::DEPTH_STRIDE_PX, column::DEPTH_STRIDE_PX] for row in (1, 2) for column in (1, 2)]
    return np.exp(np.mean(middle, axis=0)).astype(np.float32)


def draw_photo(
    rng: np.random.Generator, settings: PictureSettings, camera: Intrinsics, labels: PhotoLabels
) -> PhotoPicture:
    """Places a photograph on the canvas of a camera.

    Its focal length is unknown and drawn. The depth changes by the same factor: the same picture, seen by a longer
    lens, is farther away. The photograph is mirrored half of the time.
    """
    low, high = settings.photo_fx_over_width
    fx_over_width = math.exp(rng.uniform(math.log(low), math.log(high)))
    height, width = labels.rgb.shape[:2]
    fx = fx_over_width * width
    fy = fx * math.exp(rng.normal(0, ASPECT_SPREAD))
    own = Intrinsics(fx, fy, (width - 1) / 2, (height - 1) / 2, width, height)
    placement = Placement(own, camera, bool(rng.random() < 0.5))
    depth_m = placement.labels(labels.depth_m * np.float32(fx_over_width / labels.fx_over_width), np.nan)
    segments = None if labels.segments is None else placement.labels(labels.segments, UNKNOWN_SEGMENT)
    boxes = tuple(filter(None, (placement.box(box) for box in labels.boxes)))
    names = photo_names(boxes, labels.maybe, segments, labels.has_boxes, camera.size_px, TOKEN_PX)
    return PhotoPicture(augment(rng, placement.image(labels.rgb)), depth_m, names, boxes, segments, labels)


def draw_frame(
    rng: np.random.Generator,
    settings: PictureSettings,
    camera: Intrinsics,
    frame: tuple[np.ndarray, np.ndarray, Intrinsics],
) -> Picture:
    """Places a frame of a depth sensor on the canvas of a camera, with a random zoom, mirrored or not.

    The zoom changes focal length and depth by one factor, so that few places become more.
    """
    rgb, true_m, given = frame
    low, high = settings.frame_zoom
    zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
    own = replace(given, fx_px=given.fx_px * zoom, fy_px=given.fy_px * zoom)
    placement = Placement(own, camera, bool(rng.random() < 0.5))
    tokens = camera.width_px * camera.height_px // TOKEN_PX**2
    names = np.full((tokens, len(NAMES)), UNKNOWN, np.int8)
    return Picture(augment(rng, placement.image(rgb)), placement.labels(true_m * np.float32(zoom), np.nan), names)


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas, perhaps mirrored. own, canvas: the cameras of the image and of the canvas."""

    own: Intrinsics
    canvas: Intrinsics
    mirrored: bool

    def image(self, rgb: np.ndarray) -> np.ndarray:
        """Returns uint8 (H, W, 3): the image on the canvas, and grey around it."""
        scale = np.array([self.canvas.fx_px / self.own.fx_px, self.canvas.fy_px / self.own.fy_px])
        shown = np.maximum(np.rint(scale * self.own.size_px), 1).astype(int)
        small = cv2.resize(rgb, tuple(map(int, shown)), interpolation=cv2.INTER_AREA) if scale[0] < 1 else rgb
        # What remains to be scaled, and where the first pixel lies; a pixel's centre is half a pixel inside.
        scale = scale * self.own.size_px / small.shape[1::-1]
        shift = np.array([self._to_canvas(-0.5, axis) for axis in (0, 1)]) + 0.5 * scale
        matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        size_px, grey = self.canvas.size_px, (UNSEEN_GREY,) * 3
        placed = cv2.warpAffine(small, matrix, size_px, borderMode=cv2.BORDER_CONSTANT, borderValue=grey)
        return np.ascontiguousarray(placed[:, ::-1]) if self.mirrored else placed

    def labels(self, grid: np.ndarray, outside: float) -> np.ndarray:
        """Returns (H/4, W/4): the nearest values of a grid (h, w) that covers the image, `outside` beyond it."""
        height, width = grid.shape
        u, v = (self._nearest(axis, count) for axis, count in ((0, width), (1, height)))
        inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))[None]
        values = np.where(inside, grid[np.clip(v, 0, height - 1)[:, None], np.clip(u, 0, width - 1)[None]], outside)
        values = values.astype(grid.dtype)
        return np.ascontiguousarray(values[:, ::-1]) if self.mirrored else values

    def box(self, box: PhotoBox) -> PhotoBox | None:
        """Returns a box in pixel edges of the canvas, None if most of it lies outside."""
        (own_width, own_height), (width, height) = self.own.size_px, self.canvas.size_px
        x0, x1 = (self._to_canvas(share * own_width - 0.5, 0) + 0.5 for share in (box.x0, box.x1))
        y0, y1 = (self._to_canvas(share * own_height - 0.5, 1) + 0.5 for share in (box.y0, box.y1))
        if self.mirrored:
            x0, x1 = width - x1, width - x0
        left, right, top, bottom = max(x0, 0.0), min(x1, float(width)), max(y0, 0.0), min(y1, float(height))
        if (right - left) * (bottom - top) < LEAST_BOX_SHARE * (x1 - x0) * (y1 - y0) or right <= left or bottom <= top:
            return None
        return PhotoBox(box.name, box.score, left, top, right, bottom)

    def _lens(self, axis: int) -> tuple[float, float, float, float]:
        """Returns focal length and principal point of the image, then of the canvas. Mirroring keeps the canvas's
        principal point where it is."""
        own, canvas = self.own, self.canvas
        if axis == 1:
            return own.fy_px, own.cy_px, canvas.fy_px, canvas.cy_px
        centre = canvas.width_px - 1 - canvas.cx_px if self.mirrored else canvas.cx_px
        return own.fx_px, own.cx_px, canvas.fx_px, centre

    def _to_canvas(self, pixel: float, axis: int) -> float:
        """Returns where a pixel of the image lies on the canvas before mirroring."""
        own_focal, own_centre, focal, centre = self._lens(axis)
        return (pixel - own_centre) / own_focal * focal + centre

    def _nearest(self, axis: int, count: int) -> np.ndarray:
        """Returns int64 (n,): for the cells of the labels along an axis, the index in a grid of `count` cells."""
        own_focal, own_centre, focal, centre = self._lens(axis)
        cells = np.arange(self.canvas.size_px[axis] // DEPTH_STRIDE_PX)
        pixels = (cells + 0.5) * DEPTH_STRIDE_PX - 0.5
        on_image = (pixels - centre) / focal * own_focal + own_centre
        return np.floor((on_image + 0.5) * count / self.own.size_px[axis]).astype(int)


def augment(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Changes tones, colours, sharpness and noise of a picture, uint8 (H, W, 3), as other cameras would."""
    image = jitter_tones(rng, image)
    if rng.random() < 0.15:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.3:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 6))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image

"""The one place where a family meets a backend: a model looks at a frame once, and everything is read off that View."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from depthlm_ros.backends.base import Backend, Look
from depthlm_ros.backends.decoding import Generated, Query, generate
from depthlm_ros.backends.registry import check_backend_name, open_backend
from depthlm_ros.bundle import Bundle, find_bundle, load_bundle
from depthlm_ros.canonical import CanonicalView, canonical_view
from depthlm_ros.core import Answer, DepthMap, Frame, Intrinsics, PointDepths, Region, Status
from depthlm_ros.errors import BadBundle, BadQuestion
from depthlm_ros.families.base import Family, Prompt, Reply
from depthlm_ros.families.registry import family_named
from depthlm_ros.pinhole import backproject

MAX_QUESTION_CHARS = 2000


def load_model(name: str = "tiny", backend: str = "auto", threads: int = 0) -> Model:
    """Loads a model by name or folder.

    backend: "auto", "onnxruntime" or "torch". threads: 0 = all cores. Raises UnknownName, BadBundle, BackendFailed.
    """
    check_backend_name(backend)
    bundle = load_bundle(find_bundle(name))
    family = family_named(bundle.family)
    try:
        tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    except Exception as exc:  # the library raises plain Exception
        raise BadBundle(f"cannot read {bundle.tokenizer_path} ({exc}): export the model again.") from exc
    return Model(bundle, family, open_backend(backend, bundle, threads), tokenizer)


class Model:
    """A loaded model. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, family: Family, backend: Backend, tokenizer: Tokenizer) -> None:
        self.bundle, self.family, self.backend, self.tokenizer = bundle, family, backend, tokenizer
        vocab = tokenizer.get_vocab()
        self._ends = np.zeros(max(vocab.values()) + 1, bool)
        self._ends[vocab[family.end]] = True
        # What may stand in a number; everything else ends it.
        self._not_number = np.ones_like(self._ends)
        self._not_number[[vocab[piece] for piece in "0123456789."]] = False
        self._canonical = lru_cache(maxsize=8)(self._canonical_view)

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def backend_name(self) -> str:
        return self.backend.name

    @property
    def focal_px(self) -> float:
        """The canonical focal length."""
        return self.bundle.focal_px

    def look(self, frame: Frame) -> View:
        """One pass over a rectified frame: focal normalisation, depth, and the prefix of every later question."""
        canonical = self._canonical(frame.intrinsics)
        return View(self, frame, canonical, self.backend.look(canonical.image_to_canvas(frame.rgb)))

    def coverage(self, intrinsics: Intrinsics) -> float:
        """Share (0 to 1) of this camera's image that the model can see; the rest has unknown depth."""
        return self._canonical(intrinsics).coverage

    def reply_to(self, look: Look, prompts: Sequence[Prompt]) -> list[tuple[str, Generated]]:
        """The model's words after each prompt (without its forced beginning)."""
        queries = [self._query(prompt) for prompt in prompts]
        replies = generate(self.backend, look, queries)
        return [(self.tokenizer.decode(reply.ids, skip_special_tokens=False), reply) for reply in replies]

    def _query(self, prompt: Prompt) -> Query:
        ids = self.tokenizer.encode(prompt.text + self.family.header + prompt.forced).ids
        return Query(ids, self._not_number if prompt.number_only else self._ends, prompt.max_new_tokens)

    def _canonical_view(self, intrinsics: Intrinsics) -> CanonicalView:
        return canonical_view(intrinsics, self.bundle.focal_px, self.bundle.canvases_px)


class View:
    """One look at one frame. Depth and any number of questions come from it without looking again."""

    def __init__(self, model: Model, frame: Frame, canonical: CanonicalView, look: Look) -> None:
        self.frame, self.model = frame, model
        self._canonical, self._look = canonical, look
        self._visible_m = visible_depth(look.depth_m, canonical)

    def depth(self) -> DepthMap:
        """Dense depth at the frame's size; NaN where the model does not see the image."""
        depth_m = self._canonical.depth_to_image(self._visible_m)
        return DepthMap(depth_m, self.frame.intrinsics, self.frame.stamp_ns, self.frame.frame_id)

    def depth_at(self, uv_px: np.ndarray) -> PointDepths:
        """Depth at pixels (N, 2) of the frame, read off the dense map.

        std_m combines the spread of the map around the pixel with the model's own relative error on its validation
        scenes. Raises BadQuestion for pixels outside the frame.
        """
        uv_px = self._checked(uv_px)
        canvas = self._canonical.uv_to_canvas(uv_px)
        depth_m, spread_m = neighbourhood(self._visible_m, canvas)
        depth_m[~self._canonical.contains(uv_px)] = np.nan
        std_m = np.hypot(spread_m, self.model.bundle.dense_std * depth_m)
        return PointDepths(uv_px, depth_m.astype(np.float32), std_m.astype(np.float32))

    def tell_depth_at(self, uv_px: np.ndarray) -> PointDepths:
        """Depth at pixels (N, 2) in the model's words: one question per pixel, all in one batch.

        Raises BadQuestion for pixels outside the frame.
        """
        uv_px = self._checked(uv_px)
        depth_m = np.full(len(uv_px), np.nan)
        seen = np.flatnonzero(self._canonical.contains(uv_px))
        canvas, size_px = self._canonical.uv_to_canvas(uv_px), self._canonical.canvas_size_px
        prompts = [self.model.family.point_prompt(u, v, size_px) for u, v in canvas[seen]]
        for index, (text, _) in zip(seen, self.model.reply_to(self._look, prompts), strict=True):
            depth_m[index] = self.model.family.read_point(text)
        std_m = self.model.bundle.words_std * depth_m
        return PointDepths(uv_px, depth_m.astype(np.float32), std_m.astype(np.float32))

    def ask(self, question: str, uv_px: np.ndarray | Sequence = (), regions: Sequence[Region] = ()) -> Answer:
        """A question in words, about the image, some pixels (N, 2) or some regions of the frame.

        The answer's points are measured: the depth map at the given pixels, else inside the boxes that the model
        names. Raises BadQuestion if there is nothing to ask or a pixel lies outside the frame.
        """
        check_question(question)
        uv_px = self._checked(uv_px)
        canvas = self._canonical.uv_to_canvas(uv_px)
        boxes = [self._to_canvas(region) for region in regions]
        size_px = self._canonical.canvas_size_px
        prompt = self.model.family.question_prompt(question, canvas, boxes, size_px)
        ((text, generated),) = self.model.reply_to(self._look, [prompt])
        if not generated.finished:
            return Answer(text, Status.NOT_UNDERSTOOD)
        reply = self.model.family.read_reply(text, size_px)
        return self._answer(reply, generated, uv_px, regions)

    def _answer(self, reply: Reply, generated: Generated, uv_px: np.ndarray, asked: Sequence[Region]) -> Answer:
        if reply.status is not Status.OK:
            return Answer(reply.text, reply.status, confidence=probability(generated))
        regions = tuple(asked) or tuple(self._to_image(box) for box in reply.boxes)
        return Answer(
            reply.text,
            reply.status,
            reply.value,
            reply.unit,
            std=self.model.bundle.words_std * reply.value,
            points_m=self._points(uv_px if len(uv_px) else centres(regions)),
            regions=regions,
            confidence=probability(generated),
        )

    def _points(self, uv_px: np.ndarray) -> np.ndarray:
        inside = uv_px[self._in_frame(uv_px)]
        return backproject(inside, self.depth_at(inside).depth_m, self.frame.intrinsics)

    def _checked(self, uv_px: np.ndarray | Sequence) -> np.ndarray:
        uv_px = np.asarray(uv_px, np.float64).reshape(-1, 2)
        outside = ~self._in_frame(uv_px)
        if outside.any():
            u, v = uv_px[outside][0]
            width, height = self.frame.intrinsics.size_px
            raise BadQuestion(
                f"pixel ({u:g}, {v:g}) is outside the {width} x {height} image: u 0..{width - 1}, v 0..{height - 1}."
            )
        return uv_px

    def _in_frame(self, uv_px: np.ndarray) -> np.ndarray:
        width, height = self.frame.intrinsics.size_px
        u, v = uv_px[:, 0], uv_px[:, 1]
        return (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)

    def _to_canvas(self, region: Region) -> Region:
        """Boxes are edges, pixels are centres: half a pixel lies between them."""
        return corners_to_region(self._canonical.uv_to_canvas(corners(region) - 0.5) + 0.5, region.label)

    def _to_image(self, region: Region) -> Region:
        uv = self._canonical.uv_to_image(corners(region) - 0.5) + 0.5
        return corners_to_region(np.clip(uv, 0, self.frame.intrinsics.size_px), region.label)


def check_question(question: str) -> None:
    """Raises BadQuestion if there is nothing to ask or too much."""
    if not question.strip():
        raise BadQuestion('the question is empty: ask for example "How far is the red box?".')
    if len(question) > MAX_QUESTION_CHARS:
        raise BadQuestion(f"the question has {len(question)} characters: at most {MAX_QUESTION_CHARS} are taken.")


def visible_depth(depth_m: np.ndarray, canonical: CanonicalView) -> np.ndarray:
    """The canvas's depth with NaN where the canvas shows no image: what the model says there means nothing."""
    x, y, width, height = canonical.visible
    seen = np.full_like(depth_m, np.nan)
    seen[y : y + height, x : x + width] = depth_m[y : y + height, x : x + width]
    return seen


def neighbourhood(depth_m: np.ndarray, uv_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value at the nearest pixel, and standard deviation over its 3 x 3 neighbourhood; float64 (N,) each."""
    height, width = depth_m.shape
    u = np.clip(np.rint(uv_px[:, 0]).astype(int), 0, width - 1)
    v = np.clip(np.rint(uv_px[:, 1]).astype(int), 0, height - 1)
    padded = np.pad(depth_m.astype(np.float64), 1, constant_values=np.nan)
    patches = np.stack([padded[v + dv, u + du] for dv in range(3) for du in range(3)])
    known = np.isfinite(patches)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, patches, 0.0).sum(0) / count
    spread = np.sqrt((np.where(known, patches - mean, 0.0) ** 2).sum(0) / count)
    return depth_m[v, u].astype(np.float64), spread


def corners(region: Region) -> np.ndarray:
    """(2, 2): top-left and bottom-right."""
    x, y = region.x_px, region.y_px
    return np.array([[x, y], [x + region.width_px, y + region.height_px]])


def corners_to_region(uv: np.ndarray, label: str = "") -> Region:
    (x0, y0), (x1, y1) = uv
    return Region(float(x0), float(y0), float(x1 - x0), float(y1 - y0), label)


def centres(regions: Sequence[Region]) -> np.ndarray:
    """(N, 2) centre pixels."""
    return np.array([corners(region).mean(0) - 0.5 for region in regions]).reshape(-1, 2)


def probability(generated: Generated) -> float:
    """Geometric mean of the probabilities of the chosen tokens."""
    if not generated.log_probability:
        return math.nan
    return math.exp(sum(generated.log_probability) / len(generated.log_probability))

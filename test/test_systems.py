# SPDX-License-Identifier: Apache-2.0
"""Every published system end to end, on small random checkpoints of its architecture.

A name and a folder go in. The tokens that come out are exactly those of transformers' generate() for the same images
and the released prompt.
"""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.released_checkpoints import KINDS, publish  # noqa: E402

from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadBundle, BadQuestion  # noqa: E402
from depthlm_ros.families import depthlm, vlm3  # noqa: E402
from depthlm_ros.families.base import Prompt  # noqa: E402
from depthlm_ros.geometry.canonical_view import PICTURE  # noqa: E402
from depthlm_ros.geometry.resize_rules import process_picture  # noqa: E402
from depthlm_ros.geometry.visual_prompt import ARROW_OFFSETS_PX, RED, draw_markers  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402

pytestmark = pytest.mark.torch
SYSTEMS = {
    "depthlm-12b": "llava",
    "depthlm-3b": "qwen2_5_vl",
    "depthvlm-4b": "qwen3_vl",
    "vlm3-depth": "qwen3_vl",
    "vlm3-object": "qwen3_vl",
    "vlm3-corr": "qwen3_vl",
    "vlm3-pose": "qwen3_vl",
    "qwen3-vl-4b": "qwen3_vl",
    "qwen2.5-vl-3b": "qwen2_5_vl",
}
CAMERA = Intrinsics(1000.0, 1000.0, 79.5, 59.5, 160, 120)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of checkpoints by architecture, and one with a depth head."""
    made = {}
    for architecture in KINDS:
        made[architecture] = tmp_path_factory.mktemp(architecture)
        publish(made[architecture], architecture, with_head=False)
    made["depthvlm-4b"] = tmp_path_factory.mktemp("depthvlm")
    publish(made["depthvlm-4b"], "qwen3_vl", with_head=True)
    return made


@pytest.fixture(scope="module")
def models_by_name(folders):
    """Loads each system once."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = load_model(f"{name}={folders.get(name, folders[SYSTEMS[name]])}", device="cpu")
        return loaded[name]

    return get


@pytest.fixture
def frame():
    rgb = np.random.default_rng(1).integers(0, 256, (CAMERA.height_px, CAMERA.width_px, 3), dtype=np.uint8)
    return Frame(rgb, CAMERA)


def transformers_reply(model, folder, canvases, text, count):
    """Returns the token ids that transformers' own model generates for the same pixels and text, in the chat's form."""
    from transformers import AutoModelForImageTextToText

    reference = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    pad = "[IMG]" if model.spec.architecture == "llava" else "<|image_pad|>"
    spans = [image_text(model, canvas, pad) for canvas in canvases]
    chat = model.chat
    prompt = chat.before + chat.between.join(spans) + chat.after + text + chat.header
    ids = torch.tensor([model.tokenizer.encode(prompt, add_special_tokens=False).ids])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels(model, canvases)}
    if pad == "<|image_pad|>":
        given["mm_token_type_ids"] = (ids == model.tokenizer.token_to_id(pad)).int()
    with torch.no_grad():
        output = reference.generate(
            **given, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    return output[0, ids.shape[1] :].tolist()


def image_text(model, canvas, pad):
    """Returns the text that stands for an image in the prompt."""
    side = model.spec.pixels_per_token
    rows, columns = canvas.shape[0] // side, canvas.shape[1] // side
    if model.spec.architecture != "llava":
        return pad * (rows * columns)
    return "[IMG_BREAK]".join([pad * columns] * rows) + "[IMG_END]"


def pixels(model, canvases):
    """Returns the images in the form that transformers' processors give them."""
    if model.spec.architecture == "llava":
        arrays = [(torch.from_numpy(canvas).permute(2, 0, 1).float() - 0.5) / 0.5 for canvas in canvases]
        return {"pixel_values": torch.stack(arrays), "image_sizes": torch.tensor([c.shape[:2] for c in canvases])}
    patch = model.spec.pixels_per_token // 2
    rows = [(canvas.shape[0] // patch, canvas.shape[1] // patch) for canvas in canvases]
    patches = []
    for canvas, (high, wide) in zip(canvases, rows, strict=True):
        x = (torch.from_numpy(canvas).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
        x = x[None].repeat(2, 1, 1, 1).reshape(1, 2, 3, high // 2, 2, patch, wide // 2, 2, patch)
        patches.append(x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(high * wide, -1))
    return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor([(1, *grid) for grid in rows])}


def our_reply(model, looked, prompt, count):
    """Returns the token ids that our path decodes without forced words and without an end token."""
    free = replace(prompt, forced="", number_only=False, max_new_tokens=count)
    is_end_token, model._is_end_token = model._is_end_token, np.zeros_like(model._is_end_token)
    try:
        return list(looked(free).tokens.ids)
    finally:
        model._is_end_token = is_end_token


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "depthlm" not in name and name[:6] != "vlm3-c"])
def test_replies_after_one_look_equal_those_of_generate(models_by_name, folders, frame, name):
    model = models_by_name(name)
    view = model.look(frame)
    canvas = view._placement.canvas
    prompt = Prompt("How far is the door?")
    expected = transformers_reply(model, folders.get(name, folders[SYSTEMS[name]]), [canvas], prompt.text, 12)
    assert our_reply(model, lambda p: model.generate_replies(view._look, [p])[0], prompt, 12) == expected


@pytest.mark.parametrize("name", ["depthlm-12b", "depthlm-3b"])
def test_replies_to_marked_images_equal_those_of_generate(models_by_name, folders, frame, name):
    model = models_by_name(name)
    placement = model.look(frame)._placement
    picture = placement.picture
    uv_px = np.array([[40.0, 30.0], [70.0, 50.0], [20.0, 60.0]])
    prompts = [model.family.point_prompt(u, v, placement.size_in(PICTURE)) for u, v in placement.uv_in(PICTURE, uv_px)]
    for prompt in prompts:
        marked = process_picture(draw_markers(picture, np.array(prompt.markers_px)), model.spec.canvas)
        expected = transformers_reply(model, folders[SYSTEMS[name]], [marked], depthlm.POINT_QUESTION, 8)
        assert our_reply(model, lambda p: model.generate_marked_replies(picture, [p])[0], prompt, 8) == expected
    together = model.generate_marked_replies(picture, prompts)
    alone = [model.generate_marked_replies(picture, [prompt])[0] for prompt in prompts]
    assert [result.tokens.ids for result in together] == [result.tokens.ids for result in alone]


@pytest.mark.parametrize("name", ["vlm3-corr", "vlm3-pose", "depthlm-12b", "qwen2.5-vl-3b"])
def test_replies_to_two_images_equal_those_of_generate(models_by_name, folders, frame, name):
    model = models_by_name(name)
    other = Frame(frame.rgb[::-1].copy(), CAMERA)
    pair = model.look_pair(frame, other)
    canvases = [pair._first.canvas, pair._second.canvas]
    text = vlm3.Vlm3Corr().match_prompt(10.0, 20.0, pair._first.canvas_size_px).text
    expected = transformers_reply(model, folders[SYSTEMS[name]], canvases, text, 8)
    assert our_reply(model, lambda p: model.generate_replies(pair._look, [p])[0], Prompt(text), 8) == expected


def marked_canvases(model, frame, uv_px):
    """Returns the images that the network sees when it is asked about pixels."""
    seen = []
    looked = model.backend.look
    model.backend.look = lambda images: seen.append(images[0]) or looked(images)
    try:
        model.look(frame).tell_depth_at(uv_px)
    finally:
        del model.backend.look
    return seen


@pytest.mark.parametrize("as_released", [False, True])
def test_the_arrow_is_at_the_nearest_pixel_or_as_released_at_the_pixel_before(folders, frame, as_released):
    model = load_model(f"depthlm-12b={folders['llava']}", device="cpu", as_released=as_released)
    assert model.spec.released == as_released
    uv_px = np.array([[41.0, 31.0], [70.0, 50.0]])
    (canvases,) = marked_canvases(model, frame, uv_px)
    scale = model.spec.canvas.focal_px / CAMERA.fx_px
    targets = np.trunc(uv_px * scale) if as_released else np.floor((uv_px + 0.5) * scale)
    for canvas, target in zip(canvases, targets, strict=True):
        red = {(u, v) for v, u in np.argwhere((canvas == RED).all(2)).tolist()}
        assert red == {(u, v) for u, v in (target + ARROW_OFFSETS_PX).astype(int).tolist()}


def test_the_processor_resizes_an_image_with_its_arrow(models_by_name, frame):
    model = models_by_name("depthlm-3b")
    (canvases,) = marked_canvases(model, frame, [(80, 60)])
    placement = model.look(frame)._placement
    marked = draw_markers(placement.picture, placement.uv_in(PICTURE, np.array([[80.0, 60.0]])))
    assert placement.picture.shape != placement.canvas.shape
    assert np.array_equal(canvases[0], process_picture(marked, model.spec.canvas))
    assert (canvases[0] == RED).all(2).sum() < 9


def test_points_at_the_border_are_asked_about_on_a_widened_image(models_by_name, frame):
    """The released evaluation leaves these points out."""
    model = models_by_name("depthlm-12b")
    asked = []
    looked = model.backend.look
    model.backend.look = lambda images: asked.append(images[0].shape) or looked(images)
    try:
        depths = model.look(frame).tell_depth_at([(0, 0), (80, 60), (140, 2)])
    finally:
        del model.backend.look
    assert depths.depth_m.shape == (3,)
    (_, height, width, _), wider = asked
    assert wider == (2, height + 32, width + 32, 3)


def test_depth_and_answers_come_from_one_look(models_by_name, frame):
    model = models_by_name("depthvlm-4b")
    looks = []
    looked = model.backend.look
    model.backend.look = lambda images: looks.append(1) or looked(images)
    try:
        view = model.look(frame)
        depth = view.depth()
        answer = view.ask("How far is the door?", regions=())
    finally:
        del model.backend.look
    assert depth.depth_m.shape == (CAMERA.height_px, CAMERA.width_px) and np.isfinite(depth.depth_m).all()
    assert answer.text is not None and looks == [1]


def test_a_model_without_a_depth_head_refuses_dense_depth(models_by_name, frame):
    view = models_by_name("vlm3-depth").look(frame)
    with pytest.raises(BadQuestion, match=r"vlm3-depth has no dense depth.*mode: sparse"):
        view.depth()
    assert view.depth_at([(3, 4)]).depth_m.shape == (1,)


@pytest.mark.parametrize(
    ("name", "better"), [("depthvlm-4b", "vlm3-corr"), ("vlm3-depth", "vlm3-corr"), ("vlm3-pose", "vlm3-corr")]
)
def test_an_error_names_the_model_that_can_do_it(models_by_name, frame, name, better):
    with pytest.raises(BadQuestion, match=better):
        models_by_name(name).look_pair(frame, frame).match([(1, 1)])


def test_meaningless_replies_give_no_match_and_no_pose(models_by_name, frame):
    matches = models_by_name("vlm3-corr").look_pair(frame, frame).match([(5, 5), (100, 80)])
    assert np.isnan(matches.matched_px).all() and matches.matched_px.shape == (2, 2)
    pose = models_by_name("vlm3-pose").look_pair(frame, frame).pose()
    assert np.isnan(pose.rotation).all() and np.isnan(pose.translation_m).all()


def test_the_weights_of_another_model_are_refused(folders):
    with pytest.raises(BadBundle, match=r"qwen3_vl.*depthlm-12b|depthlm-12b.*llava"):
        load_model(f"depthlm-12b={folders['qwen3_vl']}", device="cpu")
    with pytest.raises(BadBundle, match="depth"):
        load_model(f"depthvlm-4b={folders['qwen3_vl']}", device="cpu")


def test_onnx_runtime_refuses_a_checkpoint_and_says_what_to_do(folders):
    with pytest.raises(BackendFailed, match="backend torch, or export"):
        load_model(f"vlm3-depth={folders['qwen3_vl']}", backend="onnxruntime")

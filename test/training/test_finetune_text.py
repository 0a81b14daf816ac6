# SPDX-License-Identifier: Apache-2.0
"""The exact text of every prompt and reply of fine-tuning, and what is learnt of it."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from support.training_files import (  # noqa: E402
    HEIGHT,
    WIDTH,
    depth_line,
    object_line,
    pair_line,
    point_line,
    write_image,
)

from depthlm_ros.errors import BadInput  # noqa: E402
from depthlm_ros.training.packing import PADDING, PREFIX, block_mask  # noqa: E402

pytestmark = pytest.mark.torch
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER, ASSISTANT = "<|im_start|>user\n<|vision_start|>", "<|im_end|>\n<|im_start|>assistant\n"
ARROW = (
    "Given this image, how far is the point pointed by the red arrow from the camera? Output the thinking process in "
    "<think> </think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
)

POINT_REPLY = "<think> The point is around {d:.2f} meters away from the camera. </think>\n\n<answer> {d:.2f} </answer>"


def texts(made, position=0):
    """Returns the row as text without the images' tokens, and what is learnt of it, as one string per segment."""
    row, tokenizer = made[position].row, made.encoder.tokenizer
    taken = {made.encoder.image_id, *(made.encoder.row_ids or ())}

    def words(ids):
        return tokenizer.decode([token for token in ids if token not in taken], skip_special_tokens=False)

    segments = [row.segment == segment for segment in dict.fromkeys(row.segment.tolist())]
    return words(row.ids.tolist()), [words(row.next_id[here & (row.next_id >= 0)].tolist()) for here in segments]


def test_the_text_of_depthlm_is_exact(make_dataset):
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.351], depth_type="range")
    made = make_dataset("depthlm-3b", [line])
    reply = POINT_REPLY.format(d=2.35)
    whole = f"{SYSTEM}{USER}<|vision_end|>{ARROW}{ASSISTANT}{reply}<|im_end|>\n<|im_start|>assistant\n"
    said, learnt = texts(made)
    assert said == whole
    assert learnt == [whole.removeprefix("<|im_start|>")]  # nothing comes before the first token
    only, (taught,) = texts(make_dataset("depthlm-3b", [line], "text.loss_on=reply", "text.trailing_header=false"))
    assert only == whole.removesuffix("\n<|im_start|>assistant\n") and taught == f"{reply}<|im_end|>"


def test_pixtral_has_its_own_chat_and_rows_of_image_tokens(make_dataset):
    line = point_line("0.png", pixel_coords=[[40, 20]], depth=[2.0], depth_type="range")
    made = make_dataset("depthlm-3b", [line], "model=depthlm-12b")
    reply = POINT_REPLY.format(d=2.0)
    said, _ = texts(made)
    system = "You are a helpful assistant.\n\n"
    assert said.replace(" ", "") == f"<s>[INST]{system}{ARROW}[/INST]{reply}</s>".replace(" ", "")
    row, (image, (brk, end)) = made[0].row, (made.encoder.image_id, made.encoder.row_ids)
    rows, columns = (side // 16 for side in made[0].images[0].shape[:2])
    tokens = [token for token in row.ids.tolist() if token in (image, brk, end)]
    assert tokens == ([image] * columns + [brk]) * (rows - 1) + [image] * columns + [end]
    learnt = row.next_id.tolist()
    assert image not in learnt and (learnt.count(brk), learnt.count(end)) == (rows - 1, 1)


def test_depthvlm_has_a_fixed_reply_and_none_in_its_first_stage(make_dataset, tmp_path):
    write_image(tmp_path / "0.png", 0)
    line = depth_line(tmp_path, "0.png")
    question = (
        "Given this image, estimate the metric depth (in meters, rounded to two decimal places) for every pixel of the "
        "image."
    )
    given = f"{SYSTEM}{USER}<|vision_end|>{question}{ASSISTANT}"
    said, learnt = texts(make_dataset("depthvlm-stage2", [line]))
    reply = "OK, I will estimate the depth map of this image.<|im_end|>"
    assert (said, learnt) == (given + reply, [reply])
    assert texts(make_dataset("depthvlm-stage1", [line])) == (given, [""])
    _, (after,) = texts(make_dataset("depthvlm-stage2", [line], "text.loss_on=after_image"))
    assert after == f"<|vision_end|>{question}{ASSISTANT}{reply}"


def test_vlm3_depth_has_coordinates_from_0_to_2000(make_dataset):
    line = point_line("0.png", pixel_coords=[[24, 16]], depth=[1.5], depth_type="range")
    question = (
        "Given this image, how far is the point at coordinates ({nx}, {ny}) from the camera? The coordinates are in "
        "normalised [0, 2000] format relative to image width and height. Output the thinking process in <think> "
        "</think> and final answer (the meter number only, without the unit) in <answer> </answer> tags."
    )
    reply = POINT_REPLY.format(d=1.5) + "<|im_end|>"
    said, learnt = texts(make_dataset("vlm3-depth", [line]))
    asked = question.format(nx=round(2000 * 24 / WIDTH), ny=round(2000 * 16 / HEIGHT))
    assert said == f"{USER}<|vision_end|>{asked}{ASSISTANT}{reply}"
    assert learnt == [reply]


def test_vlm3_object_has_boxes_instead_of_masks(make_dataset):
    boxes = ["(104, 125, 521, 625)", "(625, 312, 938, 938)"]  # round(1000 * x / W), halves to even
    first, second = (f"bounding box region {box}" for box in boxes)
    answers = [
        f"No, {first} is shorter than {second}.<|im_end|>",
        f"{first} is 0.52 meters wide.<|im_end|>",
    ]
    said, learnt = texts(make_dataset("vlm3-object", [object_line("0.png")], "text.layout=turns"))
    second_turn = f"\n<|im_start|>user\nHow wide is {first}?{ASSISTANT}"
    assert said == (
        f"{USER}<|vision_end|>Is {first} taller than {second}?{ASSISTANT}{answers[0]}{second_turn}{answers[1]}"
    )
    assert learnt == ["".join(answers)]
    _, packed = texts(make_dataset("vlm3-object", [object_line("0.png")]))
    assert packed == ["", *answers]


def test_vlm3_corr_has_a_thought_and_a_match(make_dataset):
    line = pair_line("0.png", "1.png") | {"pixel_coords": [[24, 16]], "matched_coords": [[48, 48]]}
    made = make_dataset("vlm3-corr", [line])
    # Coordinates are those of the picture, whose longer side is 1024; the processor of this base makes it smaller.
    (x1, x2), (y1, y2) = (
        [round(1000 * ((at + 0.5) * extent / whole - 0.5) / extent) for at in pixels]
        for pixels, extent, whole in (((24, 48), 1024, WIDTH), ((16, 48), 683, HEIGHT))
    )
    question = (
        f"Given these two images, what pixel in the second image corresponds to pixel ({x1}, {y1}) in the first image? "
        "Report the answer as (x, y). Please think step by step and follow the format: "
        '"<think> [think process] </think>\n\n[answer]".'
    )
    said, (reply,) = texts(made)
    assert said == f"{USER}<|vision_end|><|vision_start|><|vision_end|>{question}{ASSISTANT}{reply}"
    assert reply.startswith("<think> ") and reply.endswith(f" </think>\n\n({x2}, {y2})<|im_end|>")


def test_vlm3_pose_has_three_of_four_replies(make_dataset):
    line = pair_line("0.png", "1.png")
    made = make_dataset("vlm3-pose", [line], length=20)
    expected = {
        "Rotation angle: 17.2 degrees<|im_end|>",
        "Yaw=+17.2°, Pitch=+0.0°, Roll=+0.0°<|im_end|>",
        "The camera moves right, forward, unit vector (+0.93, +0.00, +0.37).<|im_end|>",
        "Translation distance: 0.54 meters<|im_end|>",
    }
    samples = [texts(made, position)[1] for position in range(20)]
    assert all(prefix == "" and len(replies) == 3 for prefix, *replies in samples)
    assert {reply for _, *replies in samples for reply in replies} == expected


def test_packed_questions_see_the_images_and_themselves_only():
    segment = torch.tensor([[PREFIX, PREFIX, 0, 0, 1, PADDING]])
    expected = [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "xx..x.",
        "xx...x",
    ]
    assert ["".join(".x"[int(one)] for one in row) for row in block_mask(segment)[0, 0]] == expected


def test_a_row_that_is_too_long_is_skipped_and_reported(make_dataset):
    made = make_dataset("vlm3-depth", [point_line("0.png")], "text.sequence_tokens=50")
    with pytest.raises(BadInput, match="row too long"):
        made[0]

# SPDX-License-Identifier: Apache-2.0
"""Compares the speed of depth at N pixels between the method of the released scripts and ours, on one random model.

The released scripts ask once for every pixel: generate() reads image and question and decodes the complete reply token
by token. Here one look serves all pixels, the questions share its prefix, the fixed words of the reply are given
instead of decoded, and decoding stops after the number. A random model does not write such replies by itself, so the
same rule forces both methods into the form of the reply (fixed words, free digits), and every digit is compared.

  python bench/sparse.py                       a small Qwen3-VL on the CPU
  python bench/sparse.py --device cuda --size 4b     the real 4B configuration, random weights in bfloat16

  python bench/sparse.py --marks             pixels marked in the image (DepthLM): every pixel is an image of its own

  OMP_NUM_THREADS=1 python bench/sparse.py --images
                                             only: CPU time of the released image steps of a 1920 x 1080 image, here
                                             and in Pillow; the processor alone is the cost of one more marked copy

With --marks the questions cannot share a look, because the vision tower sees the complete image with its mark. Our
method looks at several copies in one batch, gives the fixed words, and stops after the number; more cannot be gained.

The last line is JSON: ratio_N = seconds of the released method / seconds of ours. Each time is the smallest one of the
repeats; with --images it is the median of the CPU time of this process, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from depthlm_ros.backends.base import Look, StepInput, StepOutput
from depthlm_ros.backends.generation import Query, generate, look_at_marked_images
from depthlm_ros.backends.torch_backend import TorchBackend
from depthlm_ros.core import Frame, Intrinsics
from depthlm_ros.geometry.canonical_view import CanvasPlacement, fitted_view
from depthlm_ros.geometry.resize_rules import process_picture
from depthlm_ros.geometry.visual_prompt import draw_markers
from depthlm_ros.model_files.spec_yaml import find_spec
from depthlm_ros.nets.qwen3vl import Qwen3VLDepth

IMAGE_ID, START, END, HEADER = 1, 2, 3, (4, 5, 6)
DIGITS = np.arange(10, 20)
POINT, FIRST_WORD = 20, 30
# The numbers of tokens in VLM3's question and reply with Qwen's tokenizer: the question with its two coordinates, the
# fixed words before the first number, between the two numbers, and after them.
QUESTION_TOKENS, BEFORE_NUMBER, BETWEEN_NUMBERS, BEHIND = 83, 8, 16, 5
NUMBER_TOKENS = 4  # "2.35"
SIZES = {
    # ENGINES.md's small model: vision 6 x 192, language 5 x 256, 448 x 320 px.
    "small": {
        "vocab": 2048,
        "canvas": (448, 320),
        "text": {"hidden": 256, "layers": 5, "heads": 8, "heads_kv": 4, "head_dim": 32, "feed": 768},
        "vision": {"hidden": 192, "layers": 6, "heads": 6, "feed": 768, "deep": [1, 3, 4]},
    },
    # Qwen3-VL-4B-Instruct's own sizes.
    "4b": {
        "vocab": 151936,
        "canvas": (1152, 864),
        "text": {"hidden": 2560, "layers": 36, "heads": 32, "heads_kv": 8, "head_dim": 128, "feed": 9728},
        "vision": {"hidden": 1024, "layers": 24, "heads": 16, "feed": 4096, "deep": [5, 11, 17]},
    },
}


@dataclass(frozen=True)
class Form:
    """The tokens that are possible at each step of a reply: one token id, or any digit (None)."""

    steps: tuple[int | None, ...]

    @classmethod
    def of_reply(cls) -> Form:
        """Returns the form of the reply to a question about a point: words, number, words, number, words."""
        number = (None, POINT, None, None)
        words = iter(range(FIRST_WORD, 10_000))
        fixed = [tuple(next(words) for _ in range(n)) for n in (BEFORE_NUMBER, BETWEEN_NUMBERS, BEHIND)]
        return cls((*fixed[0], *number, *fixed[1], *number, *fixed[2]))


class FormProcessor(LogitsProcessor):
    """Forces the replies of transformers' generate() into a form."""

    def __init__(self, form: Form, prompt_length: int) -> None:
        self.form, self.prompt_length = form, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = self.form.steps[input_ids.shape[1] - self.prompt_length]
        held = torch.full_like(scores, float("-inf"))
        chosen = torch.as_tensor(DIGITS if allowed is None else [allowed], device=scores.device)
        held[:, chosen] = scores[:, chosen]
        return held


class FormBackend(TorchBackend):
    """Our backend with replies in the form of a number: the same rule, applied to the probabilities that it returns."""

    def step(self, cache, step_input: StepInput) -> StepOutput:
        output = super().step(cache, step_input)
        step = 0 if step_input.first_slot == 0 else step_input.first_slot - self.question_tokens + 1
        if step == 1:
            return replace(output, chosen=np.full_like(output.chosen, POINT))
        if step == NUMBER_TOKENS:
            return replace(output, chosen=np.full_like(output.chosen, END))
        return replace(output, chosen=DIGITS[output.watched.argmax(1)])

    question_tokens = QUESTION_TOKENS + len(HEADER) + BEFORE_NUMBER


def build(size: str, device: str, dtype: torch.dtype) -> Qwen3VLDepth:
    """Returns a random model of one of the SIZES."""
    given = SIZES[size]
    text, vision = given["text"], given["vision"]
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": given["vocab"],
            "hidden_size": text["hidden"],
            "intermediate_size": text["feed"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "num_key_value_heads": text["heads_kv"],
            "head_dim": text["head_dim"],
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": sections(text["head_dim"]),
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": vision["layers"],
            "hidden_size": vision["hidden"],
            "intermediate_size": vision["feed"],
            "num_heads": vision["heads"],
            "out_hidden_size": text["hidden"],
            "deepstack_visual_indexes": vision["deep"],
        },
        image_token_id=IMAGE_ID,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = Qwen3VLDepth(config, None)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def sections(head_dim: int) -> list[int]:
    third = head_dim // 6
    return [head_dim // 2 - 2 * third, third, third]


def question(index: int) -> list[int]:
    """Returns the token ids of the question about one pixel. Questions differ only in the coordinates."""
    ids = np.random.default_rng(index).integers(DIGITS[0], DIGITS[-1] + 1, 8)
    words = np.arange(40, 40 + QUESTION_TOKENS)
    words[12:20] = ids
    return words.tolist()


def marks(pixels: int, image: np.ndarray) -> list[tuple[tuple[float, float], ...]]:
    """Returns the pixels to mark for each question."""
    rng = np.random.default_rng(1)
    height, width = image.shape[:2]
    return [((int(rng.integers(8, width - 8)), int(rng.integers(8, height - 8))),) for _ in range(pixels)]


def released(model: Qwen3VLDepth, image: np.ndarray, pixels: int, form: Form, marked: bool) -> list[list[int]]:
    """Runs generate() once for every pixel. Returns the tokens of the replies."""
    vlm: Qwen3VLForConditionalGeneration = model.vlm
    vision = vlm.config.vision_config
    span = model.image_span((image.shape[1], image.shape[0]))
    replies = []
    for index in range(pixels):
        prompt = [START, *[IMAGE_ID] * span.tokens, START, *question(0 if marked else index), *HEADER]
        shown = draw_markers(image, np.array(marks(pixels, image)[index])) if marked else image
        ids = torch.tensor([prompt], device=vlm.device)
        patches, grid = to_patches(shown, vision.patch_size, vision.spatial_merge_size)
        with torch.inference_mode():
            output = vlm.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=patches.to(vlm.device, vlm.dtype),
                image_grid_thw=grid.to(vlm.device),
                mm_token_type_ids=(ids == IMAGE_ID).int(),
                max_new_tokens=len(form.steps),
                do_sample=False,
                eos_token_id=END,
                pad_token_id=0,
                logits_processor=LogitsProcessorList([FormProcessor(form, len(prompt))]),
            )
        replies.append(output[0, len(prompt) :].tolist())
    return replies


def to_patches(image: np.ndarray, patch: int, merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the pixels as transformers' image processor gives them, (patches, 3 * 2 * p * p), and the grid."""
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1.0
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    x = pixels[None].repeat(2, 1, 1, 1).reshape(1, 2, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(rows * columns, -1), torch.tensor([[1, rows, columns]])


def ours(
    backend: TorchBackend, image: np.ndarray, pixels: int, form: Form, vocab: int, marked: bool
) -> list[list[int]]:
    """Asks all questions after one look, or after looks at batches of marked copies. Returns the numbers as tokens."""
    is_stop_token = np.zeros(vocab, bool)
    is_stop_token[END] = True
    forced = [step for step in form.steps[:BEFORE_NUMBER] if step is not None]
    queries = [
        Query([*question(0 if marked else i), *HEADER, *forced], is_stop_token, NUMBER_TOKENS) for i in range(pixels)
    ]
    if not marked:
        return [list(reply.ids) for reply in generate(backend, backend.look([image[None]]), queries, DIGITS)]
    numbers_read: list[list[int]] = [[] for _ in queries]

    def answer(indices: list[int], look: Look) -> None:
        replies = generate(backend, look, [queries[index] for index in indices], DIGITS)
        for index, reply in zip(indices, replies, strict=True):
            numbers_read[index] = list(reply.ids)

    look_at_marked_images(backend, image, marks(pixels, image), 32, answer)
    return numbers_read


def least_s(work: Callable[[], object], repeats: int, device: str) -> tuple[float, object]:
    """Returns the smallest time of several runs, and the last result."""
    times, result = [], None
    for _ in range(repeats):
        wait(device)
        started_s = time.perf_counter()
        result = work()
        wait(device)
        times.append(time.perf_counter() - started_s)
    return min(times), result


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def numbers(replies: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns the first number of each complete reply."""
    return [list(reply[BEFORE_NUMBER : BEFORE_NUMBER + NUMBER_TOKENS]) for reply in replies]


def cpu_ms(work: Callable[[], object], repeats: int = 15) -> float:
    """Returns the median of the CPU time of several runs, in milliseconds."""
    times_s = []
    for _ in range(repeats):
        started_s = time.process_time()
        work()
        times_s.append(time.process_time() - started_s)
    return 1e3 * float(np.median(times_s))


def pillow_steps(image: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    from PIL import Image

    made = Image.fromarray(image)
    for size in sizes:
        made = made.resize(size)
    return np.asarray(made)


def compare_image_steps(name: str, frame: Frame) -> dict[str, float]:
    """Prints and returns the CPU time of a model's image steps for a frame, and the ratio of Pillow's time to it."""
    rule, image = find_spec(name).canvas, frame.rgb
    view = fitted_view(frame.intrinsics, rule)
    picture = CanvasPlacement(frame, view).picture
    sizes = [picture.shape[1::-1], view.canvas_size_px]
    if rule.snap_px:
        sizes.insert(1, tuple(round(side / rule.snap_px) * rule.snap_px for side in sizes[0]))
    ours_ms = cpu_ms(lambda: view.image_to_canvas(image))
    pillow_ms = cpu_ms(lambda: pillow_steps(image, sizes))
    copy_ms = cpu_ms(lambda: process_picture(picture, rule))
    shown = " -> ".join(f"{w} x {h}" for w, h in sizes)
    print(f"{name:12} {shown}: {ours_ms:5.1f} ms, Pillow {pillow_ms:5.1f} ms; processor alone {copy_ms:5.1f} ms")
    measured = {"ms": ours_ms, "ratio": pillow_ms / ours_ms, "processor_ms": copy_ms}
    return {f"{name}_{key}": round(value, 2) for key, value in measured.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=tuple(SIZES), default=None, help="default: 4b on cuda, else small")
    parser.add_argument("--marks", action="store_true", help="mark the pixels in the image, as DepthLM does")
    parser.add_argument("--images", action="store_true", help="only the CPU time of the released image steps")
    parser.add_argument("--points", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="runs for up to 16 points; for more there is one run",
    )
    args = parser.parse_args()
    if args.images:
        cv2.setNumThreads(1)
        noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
        frame = Frame(cv2.GaussianBlur(noise, (0, 0), 2.0), Intrinsics(1400.0, 1400.0, 959.5, 539.5, 1920, 1080))
        results = [compare_image_steps(name, frame) for name in ("depthlm-12b", "depthlm-7b", "depthvlm-4b")]
        print(json.dumps({key: value for result in results for key, value in result.items()}))
        return 0
    size = args.size or ("4b" if args.device.startswith("cuda") else "small")
    dtype = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
    model, form = build(size, args.device, dtype), Form.of_reply()
    width, height = SIZES[size]["canvas"]
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    backend = FormBackend(lambda _: model, ([START], [], [START]), device=args.device)
    print(f"Qwen3-VL {size}, {width} x {height}, {args.device}, {dtype}, {torch.get_num_threads()} threads")
    vocab = SIZES[size]["vocab"]
    released(model, image, 1, form, args.marks), ours(backend, image, 2, form, vocab, args.marks)
    result: dict[str, object] = {"size": size, "device": args.device, "marks": args.marks}
    for pixels in args.points:
        repeats = args.repeats if pixels <= 16 else 1
        slow_s, replies = least_s(lambda n=pixels: released(model, image, n, form, args.marks), repeats, args.device)
        fast_s, ours_numbers = least_s(
            lambda n=pixels: ours(backend, image, n, form, vocab, args.marks), repeats, args.device
        )
        same = sum(a == b for a, b in zip(numbers(replies), ours_numbers, strict=True))
        ratio = slow_s / fast_s
        print(
            f"{pixels:4} points: released {slow_s:8.3f} s, ours {fast_s:7.3f} s, {ratio:5.1f} x, same {same}/{pixels}"
        )
        result |= {f"released_s_{pixels}": slow_s, f"ours_s_{pixels}": fast_s, f"same_{pixels}": same / pixels}
        result[f"ratio_{pixels}"] = round(ratio, 2)
        # In float32 both methods must agree. In bfloat16 a tie between equally probable digits can go either way.
        if same < pixels and dtype is torch.float32:
            print(json.dumps(result))
            raise SystemExit(f"answers differ: {pixels - same} of {pixels}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

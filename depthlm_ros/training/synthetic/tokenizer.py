"""The embedded model's tokenizer: byte-level BPE, single digits, and fixed phrases of the prompts as one token each.

A phrase token does not limit what can be written (other text still becomes bytes). It shortens a question about a point
from about 70 tokens to 13, which makes many questions about one image cheap.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from depthlm_ros.errors import BadBundle
from depthlm_ros.families.vlm3 import MATCH_QUESTION, POINT_QUESTION, POINT_REPLY, POINT_REPLY_START, QUESTIONS
from depthlm_ros.training.synthetic.prompts import CHAT

PAD = "<|endoftext|>"
IMAGE = "<|image_pad|>"
# The text around the numbers of a pose reply (families/vlm3.py).
POSE_REPLY_WORDS = (
    "Rotation angle: ",
    " degrees",
    "Yaw=",
    "°, Pitch=",
    "°, Roll=",
    "The camera moves ",
    ", unit vector (",
    "Translation distance: ",
)
CONTROL = (PAD, IMAGE, "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def fixed_phrases() -> tuple[str, ...]:
    """Returns the unchanging parts of prompts and replies."""
    start, _, end = POINT_QUESTION.partition("{nx}, {ny}")
    middle, last = POINT_REPLY.removeprefix(POINT_REPLY_START).split("{depth_m:.2f}")[1:]
    match_start, _, match_end = MATCH_QUESTION.partition("{x1}, {y1}")
    depth = (start, end, POINT_REPLY_START, middle, last, CHAT.header)
    return (*depth, match_start, match_end, *QUESTIONS.values(), *POSE_REPLY_WORDS)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Returns the id of a token. Raises BadBundle if the tokenizer does not have it."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise BadBundle(f"the tokenizer has no token {token!r}: it was not made by this package.")
    return int(number)


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Returns a tokenizer of `vocab` entries learnt from texts. The result is deterministic."""
    tokenizer = Tokenizer(models.BPE())
    # Words with their leading space, single digits, ", " between coordinates, everything else by runs.
    pieces = Regex(r"\d|, | ?[A-Za-z]+|[^\sA-Za-z\d]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(CONTROL) - len(fixed_phrases()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in fixed_phrases()])
    return tokenizer

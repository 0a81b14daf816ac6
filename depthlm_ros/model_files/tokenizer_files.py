# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a checkpoint or bundle, whichever files hold it.

    tokenizer.json                 everything, as the library `tokenizers` writes it
    vocab.json, merges.txt         the same in the older layout of Qwen's models, with the added tokens in
                                   added_tokens.json or tokenizer_config.json

open_tokenizer: the tokenizer of a folder, which encodes whole texts and never pads
check_tokens: whether it has the special tokens with which a model is asked
read_token_id: the id of one special token
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from depthlm_ros.errors import BadBundle
from depthlm_ros.file_io import JsonObject, JsonValue
from depthlm_ros.model_files.bounded_files import MAX_TOKENIZER_BYTES, check_size, read_json
from depthlm_ros.model_files.bundle import TOKENIZER_FILE

VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"
ADDED_TOKENS_FILE, TOKENIZER_CONFIG_FILE = "added_tokens.json", "tokenizer_config.json"
# The only class of tokenizers whose vocabulary and merges are read. How a text is split first depends on the class.
QWEN_CLASS = "Qwen2Tokenizer"
# Mistral's own formats, which only its own library reads.
FOREIGN_FILES = ("tekken.json", "tokenizer.model")
# Where Qwen2's tokenizer splits a text before it merges (PRETOKENIZE_REGEX in transformers' tokenization_qwen2.py).
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ADVICE = "download the checkpoint again."


def open_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer of a model's folder. Raises BadBundle if its files are missing or damaged."""
    check_tokenizer_files(folder)
    path = folder / TOKENIZER_FILE
    return read_tokenizer(path) if path.is_file() else _build_qwen_tokenizer(folder)


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer.json. Raises BadBundle if it cannot be read.

    Padding and truncation are switched off: a training often leaves them in the file, and they would change every
    prompt.
    """
    try:
        check_size(path, MAX_TOKENIZER_BYTES)
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as exc:  # the library raises plain Exception
        raise BadBundle(f"cannot read {path} ({exc}): export or download the model again.") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def check_tokenizer_files(folder: Path) -> None:
    """Raises BadBundle if a folder has the files of no tokenizer that can be read."""
    if (folder / TOKENIZER_FILE).is_file():
        return
    old = [name for name in (VOCABULARY_FILE, MERGES_FILE) if (folder / name).is_file()]
    kind = str(_read_json(folder / TOKENIZER_CONFIG_FILE).get("tokenizer_class") or QWEN_CLASS)
    if len(old) == 2 and kind.removesuffix("Fast") == QWEN_CLASS:
        return
    foreign = [name for name in FOREIGN_FILES if (folder / name).is_file()]
    if len(old) == 2:
        problem = f"has {VOCABULARY_FILE} and {MERGES_FILE} of a {kind}, which are not read, but no {TOKENIZER_FILE}"
    elif old:
        other = MERGES_FILE if old == [VOCABULARY_FILE] else VOCABULARY_FILE
        problem = f"has {old[0]}, but neither {other} nor {TOKENIZER_FILE}"
    elif foreign:
        problem = f"has {foreign[0]}, which is not read, but no {TOKENIZER_FILE}"
    else:
        problem = f"has no {TOKENIZER_FILE} (nor {VOCABULARY_FILE} with {MERGES_FILE})"
    raise BadBundle(f"{folder} {problem}: copy it from the model that was trained further.")


def check_tokens(tokenizer: Tokenizer, tokens: Iterable[str], folder: Path) -> None:
    """Raises BadBundle if a tokenizer lacks one of the special tokens with which its model is asked."""
    if missing := [token for token in tokens if tokenizer.token_to_id(token) is None]:
        raise BadBundle(
            f"{folder}: the tokenizer has no token {missing[0]}: it is that of another model; copy the tokenizer from "
            "the model that was trained further."
        )


def read_token_id(folder: Path, token: str) -> int:
    """Returns the id of a special token. Raises BadBundle."""
    path = folder / TOKENIZER_FILE
    try:
        if not path.is_file():
            return dict(_added_tokens(folder))[token]
        fields: Any = read_json(path, MAX_TOKENIZER_BYTES)
        ids = {entry["content"]: int(entry["id"]) for entry in fields["added_tokens"]}
        return ids[token]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        where = path if path.is_file() else folder
        raise BadBundle(f"{where} does not say the id of {token} ({exc!r}): {_ADVICE}") from exc


def _build_qwen_tokenizer(folder: Path) -> Tokenizer:
    """Builds the tokenizer of vocab.json and merges.txt in the way in which transformers' Qwen2Tokenizer does."""
    vocabulary, merges = folder / VOCABULARY_FILE, folder / MERGES_FILE
    try:
        for path in (vocabulary, merges):
            check_size(path, MAX_TOKENIZER_BYTES)
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as exc:  # the library raises plain Exception
        raise BadBundle(f"cannot read {vocabulary} with {merges} ({exc}): {_ADVICE}") from exc
    words = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    added = sorted(_added_tokens(folder), key=lambda entry: entry[1])
    if not added:
        raise BadBundle(
            f"{folder} has {VOCABULARY_FILE} and {MERGES_FILE}, but no special tokens in {ADDED_TOKENS_FILE} or "
            f"{TOKENIZER_CONFIG_FILE}: copy {TOKENIZER_FILE} from the model that was trained further."
        )
    for token, number in added:
        tokenizer.add_special_tokens([AddedToken(token, normalized=False)])
        if tokenizer.token_to_id(token) != number:
            raise BadBundle(
                f"{folder}: token {token} shall have the id {number}, but {VOCABULARY_FILE} leaves the id "
                f"{tokenizer.token_to_id(token)}: these files belong to different models; {_ADVICE}"
            )
    return tokenizer


def _added_tokens(folder: Path) -> Iterator[tuple[str, int]]:
    """Yields the special tokens of the older layout with their ids. Raises BadBundle for a damaged file."""
    in_config = _read_json(folder / TOKENIZER_CONFIG_FILE).get("added_tokens_decoder")
    try:
        found = {str(token): _whole(number) for token, number in _read_json(folder / ADDED_TOKENS_FILE).items()}
        if isinstance(in_config, dict):
            for number, entry in in_config.items():
                found[str(entry["content"] if isinstance(entry, dict) else entry)] = int(number)
    except (LookupError, TypeError, ValueError) as exc:
        raise BadBundle(f"{folder}: the added tokens are damaged ({exc!r}): {_ADVICE}") from exc
    yield from found.items()


def _read_json(path: Path) -> JsonObject:
    """Returns the fields of a file, none if it does not exist."""
    try:
        fields = read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as exc:
        raise BadBundle(f"{path} is damaged ({exc}): {_ADVICE}") from exc
    if not isinstance(fields, dict):
        raise BadBundle(f"{path} holds no fields: {_ADVICE}")
    return fields


def _whole(value: JsonValue) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value

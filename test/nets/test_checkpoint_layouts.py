# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in every layout in which people have them give the same model: names of trainers, LoRA adapters,
quantised weights, tokenizers in two files, and the settings of generation_config.json."""

import importlib.util
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from support.paths import ROOT  # noqa: E402
from support.released_checkpoints import KINDS, publish  # noqa: E402

from depthlm_ros.core import Frame, Intrinsics  # noqa: E402
from depthlm_ros.errors import BackendFailed, BadBundle  # noqa: E402
from depthlm_ros.model import load_model  # noqa: E402
from depthlm_ros.model_files.checkpoint import find_model  # noqa: E402
from depthlm_ros.nets.loading import load_released_model  # noqa: E402

pytestmark = pytest.mark.torch
NAMES = {"qwen3_vl": "vlm3-depth", "qwen2_5_vl": "depthlm-3b", "llava": "depthlm-12b"}
CAMERA = Intrinsics(1000.0, 1000.0, 79.5, 59.5, 160, 120)
FRAME = Frame(np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8), CAMERA)
# Module of the language model -> its name in a model of today's and of older versions of transformers.
QUERY = "model.language_model.layers.1.self_attn.q_proj"
OLD_QUERY = {
    "qwen3_vl": QUERY,
    "qwen2_5_vl": "model.layers.1.self_attn.q_proj",
    "llava": "language_model.model.layers.1.self_attn.q_proj",
}


@pytest.fixture(scope="module", params=KINDS)
def published(request, tmp_path_factory):
    """(architecture, folder)"""
    folder = tmp_path_factory.mktemp(request.param)
    publish(folder, request.param, with_head=False)
    return request.param, folder


@pytest.fixture
def folder(tmp_path_factory):
    """A headless Qwen3-VL that a test may change."""
    made = tmp_path_factory.mktemp("own")
    publish(made, "qwen3_vl", with_head=False)
    return made


def load(name):
    return load_released_model(find_model(str(name)), torch.float32)


def state(backbone):
    return {name: tensor for name, tensor in backbone.state_dict().items() if not name.endswith("inv_freq")}


def assert_same(one, other):
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=0, msg=name)


def rename(folder, change):
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | changes))


def lora_tensors(folder, module, prefix="base_model.model.", rank=4, seed=3):
    """Returns the matrices of a LoRA of one module, named by `module` as its trainer did."""
    generator = torch.Generator().manual_seed(seed)
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    heads = text["num_attention_heads"] * text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
    return {
        f"{prefix}{module}.lora_A.weight": torch.randn(rank, text["hidden_size"], generator=generator) * 0.3,
        f"{prefix}{module}.lora_B.weight": torch.randn(heads, rank, generator=generator) * 0.3,
    }


def write_adapter(folder, base, tensors, **settings):
    folder.mkdir(exist_ok=True)
    own = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 8, "bias": "none"}
    edit(folder, "adapter_config.json", **own, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


# ---- names


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.base_model.model."])
def test_names_of_trainers_load_as_the_release_does(published, tmp_path, prefix):
    architecture, released = published
    shutil.copytree(released, tmp_path / "own")
    rename(tmp_path / "own", lambda name: prefix + name)
    assert_same(load(f"{NAMES[architecture]}={tmp_path / 'own'}"), load(f"{NAMES[architecture]}={released}"))


def test_wrappers_inside_names_and_a_head_inside_the_model_are_understood(tmp_path):
    publish(tmp_path, "qwen3_vl", with_head=True)
    released = load(f"depthvlm-4b={tmp_path}")
    rename(
        tmp_path,
        lambda name: f"model.{name}" if name.startswith("depth_head") else name.replace("layers.", "layers._orig_mod."),
    )
    assert_same(load(f"depthvlm-4b={tmp_path}"), released)


# ---- adapters


@pytest.mark.parametrize("layout", ["today", "older transformers"])
@pytest.mark.parametrize("place", ["alone", "beside the weights"])
def test_adapter_is_merged_whatever_version_trained_it(published, tmp_path, layout, place):
    pytest.importorskip("peft")
    architecture, released = published
    module = QUERY if layout == "today" else OLD_QUERY[architecture]
    tensors = lora_tensors(released, module)
    if place == "alone":
        folder = write_adapter(tmp_path / "lora", released, tensors)
    else:
        folder = write_adapter(shutil.copytree(released, tmp_path / "both"), "somewhere/else", tensors)
    plain = state(load(f"{NAMES[architecture]}={released}"))
    merged = state(load(f"{NAMES[architecture]}={folder}"))
    down, up = tensors.values()
    expected = plain[f"vlm.{QUERY}.weight"] + 2.0 * up @ down  # lora_alpha / r
    torch.testing.assert_close(merged.pop(f"vlm.{QUERY}.weight"), expected)
    assert all(torch.equal(tensor, plain[name]) for name, tensor in merged.items())


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"use_dora": True}, {"alpha_pattern": {QUERY: 3}, "rank_pattern": {QUERY: 4}}]
)
def test_variants_of_lora_are_those_of_peft(folder, tmp_path, settings):
    """The same numbers as peft's own loading into transformers' model."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForImageTextToText

    tensors = lora_tensors(folder, QUERY)
    if "use_dora" in settings:
        rows = tensors[f"base_model.model.{QUERY}.lora_B.weight"].shape[0]
        tensors[f"base_model.model.{QUERY}.lora_magnitude_vector"] = torch.rand(rows) + 0.5
    adapter = write_adapter(tmp_path / "lora", folder, tensors, **settings)
    edit(adapter, "adapter_config.json", target_modules=[QUERY])
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, adapter).merge_and_unload()
    ours = load(f"vlm3-depth={adapter}").vlm.state_dict()
    torch.testing.assert_close(ours[f"{QUERY}.weight"], theirs.state_dict()[f"{QUERY}.weight"])


def test_patterns_are_matched_with_the_names_of_the_model_that_was_trained(published, tmp_path):
    """As a regular expression, a name of an older version does not begin like any name of today."""
    pytest.importorskip("peft")
    architecture, released = published
    tensors = lora_tensors(released, OLD_QUERY[architecture], rank=2)
    pattern = "^" + OLD_QUERY[architecture].replace(".", r"\.")
    settings = {"alpha_pattern": {pattern: 6}, "rank_pattern": {pattern: 2}}
    adapter = write_adapter(tmp_path / "lora", released, tensors, **settings)
    down, up = tensors.values()
    expected = load(f"{NAMES[architecture]}={released}").vlm.state_dict()[f"{QUERY}.weight"] + 6 / 2 * up @ down
    torch.testing.assert_close(load(f"{NAMES[architecture]}={adapter}").vlm.state_dict()[f"{QUERY}.weight"], expected)


def test_depth_head_that_was_trained_beside_the_matrices_is_loaded(folder, tmp_path):
    pytest.importorskip("peft")
    publish(tmp_path / "whole", "qwen3_vl", with_head=True)
    stored = load_file(tmp_path / "whole" / "model.safetensors")
    head = {f"base_model.model.{name}": value for name, value in stored.items() if name.startswith("depth_head")}
    adapter = write_adapter(tmp_path / "lora", folder, lora_tensors(folder, QUERY) | head)
    ours, exact = load(f"depthvlm-4b={adapter}"), load(f"depthvlm-4b={tmp_path / 'whole'}")
    for name, tensor in exact.depth_head.state_dict().items():
        assert torch.equal(ours.depth_head.state_dict()[name], tensor)


def test_whole_modules_of_an_adapter_replace_those_of_the_base(folder, tmp_path):
    pytest.importorskip("peft")
    head = load_file(folder / "model.safetensors")["lm_head.weight"] + 1
    tensors = lora_tensors(folder, QUERY) | {"base_model.model.lm_head.weight": head}
    adapter = write_adapter(tmp_path / "lora", folder, tensors, modules_to_save=["lm_head"])
    torch.testing.assert_close(load(f"vlm3-depth={adapter}").vlm.lm_head.weight, head)


def test_adapter_of_another_model_is_refused_by_name(published, folder, tmp_path):
    architecture, released = published
    tensors = lora_tensors(folder, QUERY)
    tensors[f"base_model.model.{QUERY}.lora_A.weight"] = torch.zeros(4, 80)
    adapter = write_adapter(tmp_path / "lora", released, tensors)
    with pytest.raises(BadBundle, match=r"lora holds a LoRA adapter \(rank 4\).*does not fit the weights.*lora_A.*80"):
        find_model(f"{NAMES[architecture]}={adapter}")
    adapter = write_adapter(tmp_path / "deep", released, lora_tensors(folder, QUERY.replace("1", "77")))
    with pytest.raises(BadBundle, match=r"layers.77.*changes a module that is not there"):
        find_model(f"{NAMES[architecture]}={adapter}")


def test_adapter_is_not_trained_further_without_a_word(folder, tmp_path):
    from depthlm_ros.training.finetune.model import find_base
    from depthlm_ros.training.finetune.recipe import read_finetune_recipe

    adapter = write_adapter(tmp_path / "lora", folder, lora_tensors(folder, QUERY))
    recipe = read_finetune_recipe(ROOT / "config" / "finetune" / "vlm3-depth.yaml")
    with pytest.raises(BadBundle, match=r"cannot be trained further: merge it first: python -c .*merge_and_unload"):
        find_base(recipe, str(adapter))


# ---- quantised weights


def quantise_fp8(folder):
    """Writes the language model's linear layers as blocks of fp8 with a scale each, as Qwen's FP8 releases are."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if "_proj.weight" in name and ".layers." in name]:
        weight = tensors[name].float()
        scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(tensors, path)
    skipped = ["lm_head", "model.visual"]
    method = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    edit(folder, "config.json", quantization_config=method | {"modules_to_not_convert": skipped})


@pytest.mark.parametrize("nested", [False, True])
def test_fp8_weights_become_plain_ones(folder, nested):
    pytest.importorskip("accelerate")
    exact = state(load(f"vlm3-depth={folder}"))
    quantise_fp8(folder)
    if nested:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["quantization_config"] = config.pop("quantization_config")
        (folder / "config.json").write_text(json.dumps(config))
    found = find_model(f"vlm3-depth={folder}")
    assert found.quantisation.method == "fp8"
    loaded = state(load_released_model(found, torch.float32))
    assert loaded.keys() == exact.keys() and loaded[f"vlm.{QUERY}.weight"].dtype == torch.float32
    # Three bits of mantissa: a relative error of at most 1/16.
    close = (loaded[f"vlm.{QUERY}.weight"] - exact[f"vlm.{QUERY}.weight"]).abs()
    assert 0 < close.max() < exact[f"vlm.{QUERY}.weight"].abs().max() / 16
    depth = load_model(found, device="cpu").look(FRAME).tell_depth_at([(80, 60)])
    assert depth.depth_m.shape == (1,)


def quantise_int8(folder):
    """Writes the language model's linear layers as int8 with a scale for each row, as compressed-tensors does."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if "_proj.weight" in name and ".layers." in name]:
        weight = tensors[name].float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors[name] = (weight / scale).round().to(torch.int8)
        tensors[f"{name}_scale"] = scale
    save_file(tensors, path)
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    method = {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    edit(folder, "config.json", quantization_config=method | {"config_groups": groups, "ignore": IGNORED})


def quantise_4bit(folder):
    """Lets bitsandbytes and transformers write weights of four bits."""
    from transformers import BitsAndBytesConfig, Qwen3VLForConditionalGeneration

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["lm_head", "visual"]
    )
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, quantization_config=config, device_map="cpu")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)


IGNORED = ["lm_head", "re:.*visual.*"]
QUANTISE = {"bitsandbytes": quantise_4bit, "compressed-tensors": quantise_int8}


@pytest.mark.parametrize("method", QUANTISE)
def test_weights_of_other_libraries_run_where_these_are_installed(folder, tmp_path, method):
    module = method.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{method} is not installed")
    small = shutil.copytree(folder, tmp_path / "small")
    QUANTISE[method](small)
    found = find_model(f"vlm3-depth={small}")
    assert found.quantisation.method == method
    model, plain = load_model(found, device="cpu"), load_model(f"vlm3-depth={folder}", device="cpu")
    ours, exact = (each.look(FRAME)._look.prefix[0] for each in (model, plain))
    assert 0 < (ours - exact).abs().mean() < 0.3 * exact.std()
    assert model.look(FRAME).tell_depth_at([(80, 60)]).depth_m.shape == (1,)
    # An adapter of quantised weights stays beside them; whole modules of it replace theirs.
    if importlib.util.find_spec("peft"):
        head = load_file(folder / "model.safetensors")["lm_head.weight"] + 1
        whole = {"base_model.model.lm_head.weight": head}
        adapter = write_adapter(tmp_path / "lora", small, lora_tensors(folder, QUERY) | whole)
        changed = load_model(f"vlm3-depth={adapter}", device="cpu")
        assert not torch.equal(changed.look(FRAME)._look.prefix[0], ours)
        torch.testing.assert_close(changed.backend._model.vlm.lm_head.weight, head)


def test_missing_library_is_named_with_its_command(folder, monkeypatch):
    quantise_int8(folder)
    found = find_model(f"vlm3-depth={folder}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadBundle, match=r"by compressed-tensors, which needs .*: pip install compressed-tensors"):
        load_released_model(found, torch.float32)


def test_quantised_weights_are_not_exported_nor_trained(folder):
    from depthlm_ros.export.build import load_backbone
    from depthlm_ros.export.precision import Precision

    quantise_fp8(folder)
    found = find_model(f"vlm3-depth={folder}")
    with pytest.raises(BadBundle, match=r"quantised by fp8: they run on backend torch, but cannot be exported"):
        load_backbone(found, Precision("fp32"))
    with pytest.raises(BackendFailed, match="use backend torch"):
        load_model(found, backend="onnxruntime")


# ---- tokenizers


@pytest.mark.parametrize("architecture", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("added_in", ["added_tokens.json", "tokenizer_config.json"])
def test_vocabulary_and_merges_give_the_tokens_of_transformers(tmp_path, architecture, added_in):
    from transformers import Qwen2Tokenizer

    from depthlm_ros.families import vlm3
    from depthlm_ros.model_files.tokenizer_files import open_tokenizer, read_token_id

    publish(tmp_path, architecture, with_head=False)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in whole["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    ids = {entry["content"]: entry["id"] for entry in whole["added_tokens"]}

    def write_added(numbers):
        entries = {str(number): {"content": token, "special": True} for token, number in numbers.items()}
        in_config = added_in == "tokenizer_config.json"
        (tmp_path / added_in).write_text(json.dumps({"added_tokens_decoder": entries} if in_config else numbers))

    write_added(ids)
    ours = open_tokenizer(tmp_path)
    theirs = Qwen2Tokenizer(whole["model"]["vocab"], [tuple(merge.split(" ")) for merge in merges])
    theirs.add_special_tokens({"additional_special_tokens": list(ids)})
    texts = [
        vlm3.POINT_QUESTION,
        "It's 12.5 metres\n\n away,  isn't it? Über\u0308 <|im_end|>\n<|im_start|>assistant\n",
    ]
    for text in texts:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ours.encode(texts[0]).ids, skip_special_tokens=False) == texts[0]
    assert read_token_id(tmp_path, "<|im_end|>") == ids["<|im_end|>"]
    depth = load_model(f"{NAMES[architecture]}={tmp_path}", device="cpu").look(FRAME).tell_depth_at([(80, 60)])
    assert depth.depth_m.shape == (1,)
    write_added(ids | {"<|image_pad|>": 100000})
    with pytest.raises(BadBundle, match=r"<\|image_pad\|> shall have the id 100000, but vocab.json leaves the id 590"):
        open_tokenizer(tmp_path)
    (tmp_path / added_in).unlink()
    with pytest.raises(BadBundle, match=r"but no special tokens in added_tokens.json or tokenizer_config.json"):
        open_tokenizer(tmp_path)


def test_padding_and_truncation_of_the_file_are_switched_off(folder):
    plain = load_model(f"vlm3-depth={folder}", device="cpu")
    model_text = plain.family.point_prompt(3.0, 4.0, (160, 120)).text
    expected = plain.tokenizer.encode(model_text).ids
    stored = {"strategy": {"Fixed": 900}, "direction": "Left", "pad_to_multiple_of": 64, "pad_id": 0, "pad_type_id": 0}
    cut = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    edit(folder, "tokenizer.json", padding=stored | {"pad_token": "<|endoftext|>"}, truncation=cut)
    changed = load_model(f"vlm3-depth={folder}", device="cpu")
    assert changed.tokenizer.encode(model_text).ids == expected
    assert changed.look(FRAME)._look.length == plain.look(FRAME)._look.length


# ---- attention


def test_pixtral_without_a_sliding_window_has_that_of_transformers(tmp_path):
    publish(tmp_path, "llava", with_head=False)
    config = json.loads((tmp_path / "config.json").read_text())
    exact = load(f"depthlm-12b={tmp_path}")
    assert exact.window_tokens is None
    config["text_config"].pop("sliding_window")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(load(f"depthlm-12b={tmp_path}"), exact)
    model = load_model(f"depthlm-12b={tmp_path}", device="cpu")
    assert model.backend._model.window_tokens == 4096
    assert model.look(FRAME).tell_depth_at([(80, 60)]).depth_m.shape == (1,)
    model.backend._model.window_tokens = 60
    with pytest.raises(BackendFailed, match=r"sliding window of 60 .*use a smaller image"):
        model.look(FRAME).tell_depth_at([(80, 60)])


# ---- generation_config.json


@pytest.mark.parametrize("penalty", [1.05, 1.7, 0.6])
def test_replies_under_a_repetition_penalty_equal_those_of_generate(published, tmp_path, penalty):
    """The penalty counts every token of the prompt, those of images included, and of the reply."""
    from test_systems import our_reply, transformers_reply

    from depthlm_ros.families.base import Prompt

    architecture, released = published
    folder = shutil.copytree(released, tmp_path / "own")
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": penalty}))
    model = load_model(f"{NAMES[architecture]}={folder}", device="cpu")
    view = model.look(FRAME)
    text = "How far are the point, the door and the point?"
    expected = transformers_reply(model, folder, [view._placement.canvas], text, 12)
    prompt = Prompt(text)
    assert our_reply(model, lambda p: model.generate_replies(view._look, [p])[0], prompt, 12) == expected
    prompts = [Prompt("Why?", max_new_tokens=9), Prompt(text, max_new_tokens=9)]
    together = [result.tokens.ids for result in model.generate_replies(view._look, prompts)]
    assert together == [model.generate_replies(view._look, [one])[0].tokens.ids for one in prompts]
    (folder / "generation_config.json").write_text("{}")
    plain = load_model(f"{NAMES[architecture]}={folder}", device="cpu")
    free = our_reply(plain, lambda p: plain.generate_replies(plain.look(FRAME)._look, [p])[0], prompt, 12)
    assert free != expected or penalty < 1.1


def test_every_end_token_ends_a_reply(folder):
    from depthlm_ros.families.base import Prompt

    model = load_model(f"vlm3-depth={folder}", device="cpu")
    (free,) = model.generate_replies(model.look(FRAME)._look, [Prompt("How far?", max_new_tokens=8)])
    assert len(free.tokens.ids) == 8
    second = free.tokens.ids[4]
    edit(folder, "generation_config.json", eos_token_id=[model.tokenizer.token_to_id("<|im_end|>"), second])
    model = load_model(f"vlm3-depth={folder}", device="cpu")
    (reply,) = model.generate_replies(model.look(FRAME)._look, [Prompt("How far?", max_new_tokens=8)])
    assert reply.tokens.finished and reply.tokens.ids == free.tokens.ids[: free.tokens.ids.index(second)]

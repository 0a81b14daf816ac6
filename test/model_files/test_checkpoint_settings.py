# SPDX-License-Identifier: Apache-2.0
"""What stands beside the weights of a checkpoint: decoding settings, quantisation, adapters, the tokenizer's files."""

import json

import pytest
from support.checkpoint_folders import assert_refused, checkpoint, download, write_json, write_tensors

from depthlm_ros.errors import BadBundle
from depthlm_ros.model import load_model
from depthlm_ros.model_files.checkpoint import find_model
from depthlm_ros.model_files.checkpoint_settings import GenerationFile, read_generation
from depthlm_ros.model_files.safetensors_files import current_name, name_without_wrappers
from depthlm_ros.model_files.spec import GenerationSettings
from depthlm_ros.model_files.spec_yaml import find_spec

QUERY = "model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def folder(tmp_path):
    """A headless Qwen3-VL with one layer."""
    return checkpoint(tmp_path / "VLM3-depth", tensors=["lm_head.weight", f"{QUERY}.weight"])


def write_adapter(folder, base, tensors=(f"base_model.model.{QUERY}.lora_A.weight",), **settings):
    folder.mkdir(exist_ok=True)
    own = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2}
    write_json(folder / "adapter_config.json", own | settings)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    return folder


# ---- names of tensors


@pytest.mark.parametrize(
    ("written", "short", "current"),
    [
        ("module._orig_mod.lm_head.weight", "lm_head.weight", "lm_head.weight"),
        ("_fsdp_wrapped_module.model.norm.weight", "model.norm.weight", "model.language_model.norm.weight"),
        ("base_model.model.model.layers.0.x", "model.layers.0.x", "model.language_model.layers.0.x"),
        ("model.depth_head.norm.weight", "model.depth_head.norm.weight", "depth_head.norm.weight"),
        ("visual.blocks.0._checkpoint_wrapped_module.x", "visual.blocks.0.x", "model.visual.blocks.0.x"),
        ("model.visual.blocks.0.x", "model.visual.blocks.0.x", "model.visual.blocks.0.x"),
        ("language_model.model.layers.1.x", "language_model.model.layers.1.x", "model.language_model.layers.1.x"),
    ],
)
def test_names_of_trainers_and_versions_become_todays(written, short, current):
    assert (name_without_wrappers(written), current_name(written)) == (short, current)
    assert current_name(current) == current


def test_one_tensor_under_two_names_and_an_unmerged_adapter_are_refused(folder):
    write_tensors(folder / "model.safetensors", ["module.lm_head.weight", "lm_head.weight"])
    assert_refused(folder, "module.lm_head.weight", "is the same tensor: two models are mixed")
    write_tensors(folder / "model.safetensors", ["model.depth_head.norm.weight", "depth_head.norm.weight"])
    assert_refused(folder, "depth_head.norm.weight", "is the same tensor: two models are mixed")
    write_tensors(folder / "model.safetensors", [f"{QUERY}.base_layer.weight", f"{QUERY}.lora_A.default.weight"])
    assert_refused(folder, "LoRA adapter that was not merged", "merge_and_unload()")


# ---- generation_config.json


def test_decoding_settings_are_those_of_the_checkpoint(folder):
    released = {
        "do_sample": True,
        "temperature": 0.1,
        "top_k": 1,
        "repetition_penalty": 1.05,
        "eos_token_id": [151645, 151643, 151645],
    }
    write_json(folder / "generation_config.json", released)
    found = find_model(str(folder))
    assert found.spec.generation == GenerationSettings(1.05, (151645, 151643))
    assert found.generation.sampling == ("temperature 0.1", "top_k 1") and not found.generation.unsupported


def test_checkpoint_without_decoding_settings_is_decoded_as_its_yaml_says(folder):
    assert find_model(str(folder)).spec.generation == find_spec("vlm3-depth").generation == GenerationSettings()
    (folder / "depthlm.yaml").write_text("{like: vlm3-depth, generation: {repetition_penalty: 1.2}}")
    assert find_model(str(folder)).spec.generation.repetition_penalty == 1.2
    for settings, expected in (({"eos_token_id": 3}, (1.0, (3,))), ({"repetition_penalty": 1.0}, (1.0, ()))):
        write_json(folder / "generation_config.json", settings)
        assert find_model(str(folder)).spec.generation == GenerationSettings(*expected)


def test_settings_that_would_change_greedy_replies_are_told(folder, caplog):
    write_json(folder / "generation_config.json", {"no_repeat_ngram_size": 3, "num_beams": 1, "min_length": 0})
    assert find_model(str(folder)).generation.unsupported == ("no_repeat_ngram_size 3",)
    assert "no_repeat_ngram_size 3 would change the replies and is not supported" in caplog.text


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty is 0: it must be a positive number"),
        ({"repetition_penalty": -1.1}, "repetition_penalty is -1.1"),
        ({"repetition_penalty": "high"}, "repetition_penalty is 'high'"),
        ({"repetition_penalty": True}, "repetition_penalty is True"),
        ({"eos_token_id": [2, 64]}, "eos_token_id holds 64: ids are whole numbers, 0 to 63"),
        ({"eos_token_id": -1}, "eos_token_id holds -1"),
        ({"eos_token_id": "</s>"}, "eos_token_id holds '</s>'"),
        ([], "holds no fields"),
    ],
)
def test_decoding_settings_out_of_range_are_refused(tmp_path, settings, problem):
    folder = checkpoint(tmp_path / "VLM3-depth", text_config={"vocab_size": 64})
    write_json(folder / "generation_config.json", settings)
    assert_refused(folder, "generation_config.json", problem)
    (folder / "generation_config.json").unlink()
    assert read_generation(folder, {}) == GenerationFile(None)


def test_end_tokens_that_transformers_filled_in_are_used_only_where_they_exist(tmp_path):
    folder = checkpoint(tmp_path / "VLM3-depth", text_config={"vocab_size": 64})
    write_json(folder / "generation_config.json", {"_from_model_config": True, "eos_token_id": [2, 151645]})
    assert find_model(str(folder)).spec.generation.stop_ids == (2,)


# ---- quantised weights


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_method_of_quantisation_is_read(tmp_path, settings, method, nested):
    fields = {"text_config": {"quantization_config": settings}} if nested else {"quantization_config": settings}
    found = find_model(str(checkpoint(tmp_path / "VLM3-depth", **fields)))
    assert found.quantisation.method == method
    with pytest.raises(BadBundle, match=f"quantised by {method}: they run on backend torch, but cannot be exported"):
        found.require_plain_weights("be exported")


@pytest.mark.parametrize(("settings", "named"), [({"quant_method": "awq"}, "awq"), ({"bits": 4}, "an unnamed method")])
def test_other_methods_of_quantisation_are_refused_by_name(tmp_path, settings, named):
    folder = checkpoint(tmp_path / "VLM3-depth", quantization_config=settings)
    assert_refused(folder, "config.json", f"quantised by {named}", "bitsandbytes, compressed-tensors, fp8")


# ---- adapters


def test_adapter_alone_is_opened_with_its_base(folder, tmp_path, cache):
    adapter = write_adapter(tmp_path / "lora", str(folder))
    found = find_model(f"vlm3-pose={adapter}")
    assert (found.folder, found.adapter.folder, found.spec.name) == (folder, adapter, "vlm3-pose")
    assert found.adapter.changed_modules == [QUERY]
    assert found.fingerprint != find_model(str(folder)).fingerprint
    snapshot = download(cache, "facebook/VLM3-corr", folder)
    found = find_model(f"vlm3-corr={write_adapter(tmp_path / 'hub', 'facebook/VLM3-corr')}")
    assert found.folder == snapshot


def test_adapter_of_a_trained_system_is_that_system_and_any_other_needs_a_name(folder, tmp_path, cache, caplog):
    adapter = write_adapter(tmp_path / "lora", str(folder))
    assert find_model(str(adapter)).spec.family == "vlm3-depth" and "is taken for vlm3-depth" in caplog.text
    download(cache, "Qwen/Qwen3-VL-4B-Instruct", folder)
    assert_refused(write_adapter(tmp_path / "qwen", "Qwen/Qwen3-VL-4B-Instruct"), "say which, for example vlm3-depth=")


def test_adapter_without_its_base_names_the_commands(tmp_path):
    adapter = write_adapter(tmp_path / "lora", "Qwen/Qwen3-VL-4B-Instruct")
    assert_refused(
        adapter,
        f"{adapter} holds a LoRA adapter (rank 2) of Qwen/Qwen3-VL-4B-Instruct, and its base is not on this machine",
        "`hf download Qwen/Qwen3-VL-4B-Instruct`",
        "adapter_config.json",
        "merge_and_unload().save_pretrained('MERGED')",
    )
    assert_refused(write_adapter(tmp_path / "lora", None), "of an unnamed base")


def test_adapter_beside_weights_is_told_because_they_could_hold_it_already(folder, caplog):
    write_adapter(folder, "x/y")
    assert find_model(str(folder)).adapter.base == "x/y"
    (said,) = caplog.messages
    assert "merged into the weights beside it: remove adapter_config.json if they hold it already" in said


def test_whole_depth_head_of_an_adapter_makes_its_base_a_model_with_a_depth_head(folder, tmp_path):
    tensors = [f"base_model.model.{QUERY}.lora_A.weight", "base_model.model.depth_head.norm.weight"]
    adapter = write_adapter(tmp_path / "lora", str(folder), tensors, modules_to_save=["depth_head"])
    found = find_model(f"depthvlm-4b={adapter}")
    assert (found.weights.head, found.weights.tensors["depth_head.norm.weight"].path.parent) == ("dpt", adapter)


def test_adapter_beside_weights_of_another_repository_is_refused_by_name(tmp_path, cache):
    source = checkpoint(tmp_path / "there", tensors=["lm_head.weight", f"{QUERY}.weight"])
    write_adapter(source, "facebook/VLM3-pose")
    snapshot = download(cache, "facebook/VLM3-depth", source)
    assert_refused("vlm3-depth", "of facebook/VLM3-pose", f"the weights in {snapshot} are facebook/VLM3-depth")
    write_adapter(source, "trainer/run-7")
    (snapshot / "adapter_config.json").unlink()
    (snapshot / "adapter_config.json").symlink_to(source / "adapter_config.json")
    assert find_model("vlm3-depth").adapter.base == "trainer/run-7"


@pytest.mark.parametrize(
    ("settings", "tensors", "problem"),
    [
        ({"peft_type": "IA3"}, None, "is of the kind 'IA3': only LORA is read"),
        ({"trainable_token_indices": [3]}, None, "uses trainable_token_indices, which is not supported"),
        ({"init_lora_weights": "pissa"}, None, "initialised by 'pissa', which moved a part of"),
        ({}, ["base_model.model.lm_head.weight"], "holds no LoRA matrices"),
        ({}, [f"base_model.model.{QUERY.replace('0', '9')}.lora_A.weight"], "changes a module that is not there"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(folder, settings, tensors, problem):
    write_adapter(folder, "x/y", **settings, **({"tensors": tensors} if tensors else {}))
    assert_refused(folder, problem)


def test_adapter_without_safetensors_or_with_quantised_weights_beside_it_is_refused(folder):
    write_adapter(folder, "x/y")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert_refused(folder, "only adapter_model.bin, which can run any code")
    write_adapter(folder, "x/y")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"quantization_config": {"quant_method": "fp8"}})
    assert_refused(folder, "beside weights that are quantised by fp8", "folder of their own")


def test_adapter_of_packed_weights_is_opened(tmp_path):
    method = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    packed = [f"{QUERY}.weight_packed", f"{QUERY}.weight_scale"]
    folder = checkpoint(tmp_path / "VLM3-depth", tensors=packed, quantization_config=method)
    found = find_model(f"vlm3-depth={write_adapter(tmp_path / 'lora', str(folder))}")
    assert found.quantisation.method == "compressed-tensors" and found.adapter.changed_modules == [QUERY]


# ---- tokenizers


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ([], "has no tokenizer.json (nor vocab.json with merges.txt)"),
        (["vocab.json"], "has vocab.json, but neither merges.txt nor tokenizer.json"),
        (["vocab.json", "merges.txt"], "has vocab.json and merges.txt of a GPT2TokenizerFast, which are not read"),
        (["tekken.json"], "has tekken.json, which is not read, but no tokenizer.json"),
    ],
)
def test_missing_tokenizer_files_are_named(folder, files, problem):
    (folder / "tokenizer.json").unlink()
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2TokenizerFast"})
    for name in files:
        write_json(folder / name, {})
    assert_refused(folder, problem, "copy it from the model that was trained further")


def test_tokenizer_of_another_model_is_refused_before_weights_are_read(folder):
    fields = json.loads((folder / "tokenizer.json").read_text())
    ends = [entry for entry in fields["added_tokens"] if entry["content"] == "<|im_end|>"]
    write_json(folder / "tokenizer.json", fields | {"added_tokens": ends})
    with pytest.raises(BadBundle, match=r"VLM3-depth: the tokenizer has no token <\|image_pad\|>"):
        load_model(str(folder))

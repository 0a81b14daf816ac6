# SPDX-License-Identifier: Apache-2.0
"""`depthlm models check`: everything about a folder in seconds, one line for each problem, exit code 1 with any."""

import json
import re
import subprocess
import sys

import pytest
from support.checkpoint_folders import checkpoint, shard, write_json, write_tensors
from support.command_line import depthlm
from support.paths import ROOT

LAYERS = [f"model.language_model.layers.{i}.self_attn.q_proj.weight" for i in range(2)]
BLOCKS = [f"model.visual.blocks.{i}.attn.qkv.weight" for i in range(2)]
TENSORS = ["model.language_model.embed_tokens.weight", *LAYERS, *BLOCKS, "lm_head.weight"]
SIZES = {"text_config": {"num_hidden_layers": 2, "vocab_size": 64}, "vision_config": {"depth": 2}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return checkpoint(tmp_path / "VLM3-depth", tensors=TENSORS, **SIZES)


def check(name, *options):
    """Returns the exit code, the facts by name, and the problems."""
    done = depthlm("models", "check", str(name), *options)
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert all(": " in line or line.endswith(":") for line in lines), done.stdout
    problems = [line.removeprefix("problem: ") for line in lines if line.startswith("problem: ")]
    return done.returncode, dict(re.split(r":\s+", line, maxsplit=1) for line in lines if ": " in line), problems


def test_complete_folder_is_described_and_ready(folder):
    write_json(folder / "generation_config.json", {"repetition_penalty": 1.05, "do_sample": True, "top_k": 1})
    code, facts, problems = check(folder)
    assert (code, problems) == (0, [])
    assert facts["taken for"] == "vlm3-depth: family vlm3-depth, architecture qwen3_vl"
    assert facts["focal length"] == "images are resized to 1000 px" and "multiple_px 32" in facts["steps"]
    assert "repetition penalty 1.05" in facts["replies"] and "sampling is not used (top_k 1)" in facts["replies"]
    assert "6 tensors in 1 files, 2 layers of language" in facts["weights"] and "F32" in facts["weights"]
    assert "coordinates (1000, 1000)" in facts["question"] and "range" in facts["depth"]
    assert "CC-BY-NC" in facts["licence"] and "files are complete" in facts["ready"]
    as_json = json.loads(depthlm("models", "check", str(folder), "--json").stdout)
    assert as_json["ready"] is True and as_json["problems"] == [] and as_json["folder"] == str(folder)


def test_folder_of_any_name_is_described_as_the_system_that_it_is_taken_for(tmp_path):
    done = depthlm("models", "check", str(checkpoint(tmp_path / "pix", "llava")))
    assert "taken for:    depthlm-12b: family depthlm, architecture llava" in done.stdout
    assert "pix is taken for depthlm-12b" in done.stderr


def without_a_shard(folder):
    files = {"model-00001-of-00002.safetensors": TENSORS[:3], "model-00002-of-00002.safetensors": TENSORS[3:]}
    shard(folder, files)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_weights_of_another(folder):
    write_tensors(folder / "model.safetensors", [*TENSORS, "vision_tower.transformer.layers.0.attention.q_proj.weight"])


def with_fewer_layers(folder):
    write_tensors(folder / "model.safetensors", [*TENSORS[:1], *LAYERS[:1], *BLOCKS, "lm_head.weight"])


def quantised(folder):
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"quantization_config": {"quant_method": "compressed-tensors"}})


def with_an_adapter(folder):
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "me/base"})
    write_tensors(folder / "adapter_model.safetensors", [f"base_model.model.{LAYERS[0][:-7]}.lora_A.weight"])


def with_an_unknown_processor(folder):
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"})


def with_the_tokenizer_of_another(folder):
    fields = json.loads((folder / "tokenizer.json").read_text())
    write_json(folder / "tokenizer.json", fields | {"added_tokens": fields["added_tokens"][1:]})


def with_half_a_tokenizer(folder):
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:100])


def with_settings_out_of_range(folder):
    write_json(folder / "generation_config.json", {"repetition_penalty": 0.0})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_a_shard, ["model.safetensors.index.json", "names model-00002-of-00002.safetensors, which is missing"]),
        (with_weights_of_another, ["model.safetensors holds", "vision_tower", "the weights are another model's"]),
        (with_fewer_layers, ["VLM3-depth", "lack model.language_model.layers.1", "1 of 5 layers"]),
        (with_an_unknown_processor, ["preprocessor_config.json", "'CLIPImageProcessor'"]),
        (with_the_tokenizer_of_another, ["VLM3-depth", "the tokenizer has no token <|im_end|>"]),
        (with_half_a_tokenizer, ["cannot read", "tokenizer.json", "download the model again"]),
        (with_settings_out_of_range, ["generation_config.json", "repetition_penalty is 0.0", "correct the file"]),
    ],
)
def test_each_problem_is_one_line_with_its_file(folder, spoil, words):
    spoil(folder)
    code, _, problems = check(folder)
    assert code == 1 and len(problems) == 1
    assert all(word in problems[0] for word in words), problems


@pytest.mark.skipif("torch" in sys.modules, reason="the libraries may be here")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (quantised, ["config.json", "by compressed-tensors, which needs", "pip install compressed-tensors"]),
        (with_an_adapter, ["LoRA adapter (rank 4) of me/base", "pip install peft", "merge_and_unload()"]),
    ],
)
def test_missing_libraries_are_named_with_their_command(folder, spoil, words):
    pytest.importorskip("rclpy", reason="only the environment without torch is sure to lack them")
    spoil(folder)
    code, facts, problems = check(folder)
    assert code == 1 and len(problems) == 1 and facts["taken for"].startswith("vlm3-depth")
    assert all(word in problems[0] for word in words), problems


def test_several_problems_are_all_told(folder):
    for spoil in (without_a_shard, with_an_unknown_processor, with_settings_out_of_range):
        spoil(folder)
    (folder / "tokenizer.json").unlink()
    code, _, problems = check(folder)
    assert code == 1 and len(problems) == 4


def test_folder_of_unknown_name_is_told_to_be_named(folder):
    other = folder.rename(folder.parent / "w")
    code, _, problems = check(other)
    assert code == 1 and problems == [p for p in problems if f"vlm3-depth={other}" in p] and len(problems) == 1
    assert check(f"vlm3-depth={other}")[0] == 0


def test_checkpoints_of_vlm3_together_need_only_one(folder):
    code, facts, _ = check(f"vlm3={folder.parent}")
    assert (code, facts["vlm3-depth"], facts["vlm3-pose"]) == (0, str(folder), "not usable here")
    assert check("vlm3")[0] == 1


def test_missing_download_and_unknown_names_are_told():
    code, facts, problems = check("depthlm-12b")
    assert code == 1 and "hf download facebook/DepthLM" in problems[0]
    assert "(z)" in facts["depth"] and facts["licence"] == "FAIR Noncommercial Research License (gated)"
    assert check("nobody")[0] == 1
    done = depthlm("models", "check")
    assert done.returncode == 1 and "depthlm models check MODEL" in done.stderr


def test_neither_torch_nor_a_backend_is_loaded(folder):
    code = (
        "import sys; from depthlm_ros.cli import main; main(sys.argv[1:]); "
        "print(*({'torch', 'transformers', 'onnxruntime', 'peft'} & set(sys.modules)), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, "models", "check", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (0, "")

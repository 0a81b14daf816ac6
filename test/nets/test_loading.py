# SPDX-License-Identifier: Apache-2.0
"""Published checkpoint folders load with transformers' numbers, and errors name the cause."""

import json
import shutil
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from support.random_backbones import (  # noqa: E402
    BREAK_ID,
    END_ID,
    our_logits,
    our_states,
    pixtral_config,
    qwen3_config,
    qwen25_config,
    random_images,
    roughen,
)
from support.released_heads import published_dpt, random_tensors, released_dpt, released_mlp  # noqa: E402
from transformers import (  # noqa: E402
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from depthlm_ros.errors import BackendFailed, BadBundle, UnknownName  # noqa: E402
from depthlm_ros.geometry.resize_rules import CanvasRule  # noqa: E402
from depthlm_ros.model_files.checkpoint import open_checkpoint  # noqa: E402
from depthlm_ros.model_files.spec import ModelSpec  # noqa: E402
from depthlm_ros.nets.backbone import PixelRule  # noqa: E402
from depthlm_ros.nets.graphs import LookGraph  # noqa: E402
from depthlm_ros.nets.loading import load_released_model  # noqa: E402
from depthlm_ros.nets.pixtral import Pixtral  # noqa: E402
from depthlm_ros.nets.qwen25vl import Qwen25VLBackbone  # noqa: E402

pytestmark = pytest.mark.torch
QWEN = {"image_processor_type": "Qwen2VLImageProcessor"}
PIXTRAL = {"image_processor_type": "PixtralImageProcessor", "do_rescale": False}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255}
KINDS = {
    "qwen3_vl": (Qwen3VLForConditionalGeneration, qwen3_config, 32, HALF | QWEN),
    "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, qwen25_config, 28, CLIP | QWEN),
    "llava": (LlavaForConditionalGeneration, pixtral_config, 16, CLIP | PIXTRAL),
}
TEXTS = [[11, 12, 13], [14, 15]]


def spec_of(architecture, **changes):
    facts = {"pixels_per_token": KINDS[architecture][2]} | changes
    return ModelSpec("small", "depthlm", architecture, "qwen", CanvasRule(None), **facts)


def publish(folder, architecture, head=None, **changes):
    """Writes a random checkpoint with transformers' save_pretrained, and the other files of a release. head: tensors of
    a depth head. Returns transformers' model."""
    kind, config, _, processor = KINDS[architecture]
    torch.manual_seed(3)
    model = roughen(kind(config(**changes)))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    added = [{"id": BREAK_ID, "content": "[IMG_BREAK]"}, {"id": END_ID, "content": "[IMG_END]"}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    if head:
        rewrite(folder, lambda tensors: tensors | head)
    return model


def rewrite(folder, change):
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path)


def picture(architecture):
    """An image of 4 x 3 tokens."""
    side = KINDS[architecture][2]
    return random_images([(4 * side, 3 * side)])


def edit(folder, change, name="config.json"):
    facts = json.loads((folder / name).read_text())
    change(facts)
    (folder / name).write_text(json.dumps(facts))


def load(folder, architecture, dtype=torch.float32, **changes):
    return load_released_model(open_checkpoint(folder, spec_of(architecture, **changes)), dtype)


def assert_same_weights(backbone, model):
    ours = backbone.vlm.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(backbone.vlm.get_buffer(name), buffer, rtol=0, atol=0)


@pytest.fixture(scope="module", params=KINDS)
def published(request, tmp_path_factory):
    """(architecture, folder, transformers' model)"""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, publish(folder, request.param)


@pytest.fixture()
def copy(published, tmp_path):
    """(architecture, folder), a copy that a test may change."""
    shutil.copytree(published[1], tmp_path / "copy")
    return published[0], tmp_path / "copy"


def test_published_folder_loads_with_all_weights_and_frequencies(published):
    architecture, folder, model = published
    backbone = load(folder, architecture)
    assert_same_weights(backbone, model)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert our_logits(backbone, TEXTS, picture(architecture)).isfinite().all()


def test_tensor_names_of_newer_checkpoints_load_too(published, copy):
    architecture, folder = copy
    rewrite(folder, lambda _: dict(published[2].state_dict()))
    assert_same_weights(load(folder, architecture), published[2])


def test_several_weight_files_load_like_one(published, tmp_path):
    architecture, folder, model = published
    shutil.copytree(folder, tmp_path / "shards", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_same_weights(load(tmp_path / "shards", architecture), model)


def test_weights_have_the_requested_precision_but_frequencies_stay_exact(published):
    architecture, folder, _ = published
    backbone = load(folder, architecture, torch.bfloat16)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in backbone.buffers()} == {torch.float32}
    images = picture(architecture)
    exact, rough = our_logits(load(folder, architecture), TEXTS, images), our_logits(backbone, TEXTS, images)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().mean() < 0.1 * exact.std()


def test_tied_embeddings_need_no_output_tensor_and_stay_one(tmp_path):
    publish(tmp_path, "qwen3_vl", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    vlm = load(tmp_path, "qwen3_vl").vlm
    assert vlm.lm_head.weight is vlm.model.language_model.embed_tokens.weight
    embedding = vlm.lm_head.weight.clone()
    for stored, one in ((embedding, True), (embedding + 1, False)):
        rewrite(tmp_path, lambda tensors, stored=stored: tensors | {"lm_head.weight": stored})
        vlm = load(tmp_path, "qwen3_vl").vlm
        assert (vlm.lm_head.weight is vlm.model.language_model.embed_tokens.weight) == one
        torch.testing.assert_close(vlm.lm_head.weight, stored)


def test_depth_head_reads_deepstack_and_the_last_state(tmp_path):
    """A DepthVLM folder as published: depth as the published head gives it from the same features."""
    tensors = random_tensors(released_dpt(width=48))
    publish(tmp_path, "qwen3_vl", tensors)
    backbone = load(tmp_path, "qwen3_vl", torch.bfloat16, head="dpt")
    assert {parameter.dtype for parameter in backbone.depth_head.parameters()} == {torch.float32}
    backbone = load(tmp_path, "qwen3_vl", head="dpt")
    images = picture("qwen3_vl")
    with torch.no_grad():
        states, deep, layout = our_states(backbone, TEXTS, images)
        depth_m = backbone.depth(states, deep, layout)
        expected = published_dpt(tensors, [*deep, states[:, 3:15]], (3, 4))
    assert depth_m.shape == (1, 96, 128)
    torch.testing.assert_close(depth_m, expected, rtol=1e-4, atol=1e-4)


def test_mode_of_the_mlp_head_is_read_from_the_config(tmp_path):
    publish(tmp_path, "qwen3_vl", random_tensors(released_mlp("concat", width=48)))
    mode = {"depth_head_feature_mode": "concat", "depth_head_mlp_hidden": 20}
    edit(tmp_path, lambda facts: facts.update(mode))
    backbone = load(tmp_path, "qwen3_vl", head="mlp")
    with torch.no_grad():
        states, deep, layout = our_states(backbone, TEXTS, picture("qwen3_vl"))
        assert backbone.depth(states, deep, layout).shape == (1, 96, 128)
    edit(tmp_path, lambda facts: facts.update(depth_head_feature_mode="llm_last"))
    with pytest.raises(BadBundle, match=r"depth_head.*is .*192.*config.json implies .*48"):
        load(tmp_path, "qwen3_vl", head="mlp")


def test_pixels_are_scaled_as_the_processor_says(published, copy):
    architecture, folder = copy
    rule = load(folder, architecture).pixels
    assert rule.scale == (1.0 if architecture == "llava" else 1 / 255)
    assert rule.mean == tuple(KINDS[architecture][3]["image_mean"])
    # Newer transformers keep the image processor inside the whole processor's file.
    facts = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": facts | {"do_normalize": False}}))
    assert load(folder, architecture).pixels == PixelRule(rule.scale, (0.0,) * 3, (1.0,) * 3)
    (folder / "processor_config.json").write_text("{}")
    with pytest.raises(BadBundle, match="how pixels are scaled"):
        load(folder, architecture)


def test_flat_configuration_of_the_first_release_is_read(tmp_path):
    """Qwen2.5-VL's own config.json has the text model's fields at the top, and M-RoPE under its old name."""
    model = publish(tmp_path, "qwen2_5_vl")

    def flatten(facts):
        text = facts.pop("text_config")
        rope = text.pop("rope_parameters")
        for name in ("model_type", "layer_types", "sliding_window"):
            text.pop(name)
        facts |= text | {"rope_theta": rope["rope_theta"], "sliding_window": 32768}
        facts["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        facts["vision_config"] = {k: v for k, v in facts["vision_config"].items() if k != "rope_parameters"}
        facts["vision_config"]["model_type"] = "qwen2_5_vl"

    edit(tmp_path, flatten)
    backbone = load(tmp_path, "qwen2_5_vl")
    assert_same_weights(backbone, model)
    images = random_images([(140, 84)])
    plain = Qwen25VLBackbone(qwen25_config(), backbone.pixels)
    plain.vlm.load_state_dict(model.state_dict())
    torch.testing.assert_close(our_logits(backbone, TEXTS, images), our_logits(plain.eval(), TEXTS, images))


def test_row_breaks_are_the_tokens_of_the_tokenizer(tmp_path):
    model = publish(tmp_path, "llava")
    backbone = load(tmp_path, "llava")
    assert isinstance(backbone, Pixtral)
    assert (backbone.break_id, backbone.end_id) == (BREAK_ID, END_ID)
    with torch.no_grad():
        (tokens,) = backbone.encode_image(random_images([(64, 48)])[0])[0]
    table = model.model.language_model.embed_tokens.weight
    torch.testing.assert_close(tokens[[4, 9]], table[BREAK_ID].expand(2, -1))
    torch.testing.assert_close(tokens[14], table[END_ID])
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": []}')
    with pytest.raises(BadBundle, match=r"tokenizer.json does not say the id of \[IMG_BREAK\]"):
        load(tmp_path, "llava")


def spoil_shape(tensors):
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    return tensors | {name: torch.zeros(7, 3)}


SPOILT = {
    "missing tensor": (lambda t: {n: x for n, x in t.items() if "layers.1.mlp" not in n}, "lacks model.language_model"),
    "shape": (spoil_shape, r"up_proj.weight is 7 x 3, but config.json implies 64 x 48"),
    "foreign tensor": (lambda t: t | {"model.audio.weight": torch.zeros(2)}, "holds model.audio.weight"),
    "integers": (lambda t: {n: x.to(torch.int8) for n, x in t.items()}, "is I8: only unquantised"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_weights_that_do_not_fit_are_named(copy, how):
    architecture, folder = copy
    change, message = SPOILT[how]
    rewrite(folder, change)
    with pytest.raises(BadBundle, match=message):
        load(folder, architecture)


def test_frequencies_in_old_files_are_ignored(published, copy):
    architecture, folder = copy
    extra = {"model.language_model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    rewrite(folder, lambda tensors: tensors | extra)
    assert_same_weights(load(folder, architecture), published[2])


def test_model_that_differs_from_its_yaml_is_refused(published, tmp_path):
    architecture, folder, _ = published
    other = next(name for name in KINDS if name != architecture)
    with pytest.raises(BadBundle, match=f"is of the kind '{architecture}', but small is '{other}'"):
        load(folder, other)
    with pytest.raises(BadBundle, match=r"a token stands for .* px, but the YAML of small says 14"):
        load(folder, architecture, pixels_per_token=14)
    with pytest.raises(BadBundle, match="has no depth head, but its YAML says a DPT depth head"):
        load(folder, architecture, head="dpt")
    mamba = ModelSpec("small", "d", "mamba", "q", CanvasRule(None), 32)
    with pytest.raises(UnknownName, match="architecture 'mamba' is unknown"):
        load_released_model(replace(open_checkpoint(folder, spec_of(architecture)), spec=mamba), torch.float32)


CONFIGURATIONS = {
    "rope": (lambda f: f["text_config"]["rope_parameters"].update(rope_type="linear", factor=2.0), "rotary.*'linear'"),
    "quantised": (lambda f: f.update(quantization_config={"bits": 4}), "quantised"),
    "nonsense": (lambda f: f["text_config"].update(hidden_size="wide"), "is not a configuration"),
    "wider": (lambda f: f["text_config"].update(intermediate_size=80), "config.json implies 80 x 48|implies 48 x 80"),
}


@pytest.mark.parametrize("how", CONFIGURATIONS)
def test_configuration_that_does_not_fit_is_named(copy, how):
    architecture, folder = copy
    change, message = CONFIGURATIONS[how]
    edit(folder, change)
    with pytest.raises(BadBundle, match=message):
        load(folder, architecture)


def test_prompt_that_exceeds_a_sliding_window_is_refused(tmp_path):
    publish(tmp_path, "llava")
    edit(tmp_path, lambda facts: facts["text_config"].update(sliding_window=20))
    backbone = load(tmp_path, "llava")
    assert LookGraph(backbone, TEXTS, [(64, 48)]).layout.length == 20
    with pytest.raises(BackendFailed, match=r"23 tokens, but config.json gives attention a sliding window of 20"):
        LookGraph(backbone, TEXTS, [(80, 48)])


def test_missing_and_damaged_files_are_named(copy):
    architecture, folder = copy
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadBundle, match=r"model\.safetensors is .* bytes long, but its header says"):
        load(folder, architecture)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(BadBundle, match="only safetensors are read"):
        load(folder, architecture)
    shards = {"model-00001-of-00002.safetensors": "is missing", "../elsewhere.safetensors": "is not a safetensors file"}
    for shard, problem in shards.items():
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
        with pytest.raises(BadBundle, match=f"names .?{shard}.?, which {problem}"):
            load(folder, architecture)
    (folder / "config.json").unlink()
    with pytest.raises(BadBundle, match=r"is not a model: it has neither manifest\.json nor config\.json"):
        load(folder, architecture)

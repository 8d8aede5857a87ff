"""Directories as other writers leave them: transformers itself says what they mean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from tokenizers import Tokenizer as Backend
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from llm_jax.checkpoint import load_model
from llm_jax.checkpoint import save_model as save
from llm_jax.errors import CheckpointError, LLMWarning
from llm_jax.inference import SamplingParams, prepare_request
from llm_jax.model import Model
from llm_jax.tokenizers import BPETokenizer
from tests.checkpoint.families_of_transformers import GEMMA, LLAMA3, SMALL, YARN, make
from tests.compiled import forward

TOKENS = np.random.default_rng(0).integers(0, 61, (2, 28)).astype(np.int32)


def saved(model: PreTrainedModel, directory: Path, changes: dict[str, Any] | None = None, drop: str = "") -> Path:
    """The directory of a model, with changed entries of config.json."""
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text()) | (changes or {})
    config.pop(drop, None)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def assert_same_logits(directory: Path, reference: PreTrainedModel | None = None) -> Model:
    """The logits of the loaded model equal those of transformers, on the same directory unless given."""
    model = load_model(directory).model
    reference = reference or AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = reference(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(forward(model.config, model.params, TOKENS), expected, atol=1e-4)
    return model


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@pytest.mark.parametrize("equal", [False, True])
def test_a_head_that_differs_from_the_embedding_is_not_tied_whatever_the_configuration_says(
    tmp_path: Path, model_type: str, equal: bool
) -> None:
    model = make(model_type, {"tie_word_embeddings": False})
    if equal:
        model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.data)
    directory = saved(model, tmp_path / "model", {"tie_word_embeddings": True})
    if equal:
        assert assert_same_logits(directory).config.tie_embeddings
    else:
        with pytest.warns(LLMWarning, match="tie_word_embeddings"):
            assert not assert_same_logits(directory, model).config.tie_embeddings


def test_the_one_of_two_tied_tables_that_is_there_serves_for_both(tmp_path: Path) -> None:
    model = make("qwen2", {"tie_word_embeddings": True})
    directory = saved(model, tmp_path / "model")
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    assert "model.embed_tokens.weight" not in load_file(directory / "model.safetensors")
    assert_same_logits(directory)


def test_rope_scaling_wins_over_rope_parameters(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}
    directory = saved(make("qwen3", {"head_dim": 12}), tmp_path / "model", {"rope_scaling": scaling})
    assert assert_same_logits(directory).config.rope_theta == 1000.0


def test_rope_scaling_without_rope_theta_beside_rope_parameters_is_refused(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    directory = saved(make("qwen3", {"head_dim": 12}), tmp_path / "model", {"rope_scaling": scaling})
    with pytest.raises(CheckpointError, match="rope_scaling without rope_theta, and rope_parameters"):
        load_model(directory)


@pytest.mark.parametrize("rope", [{"type": "yarn", "factor": 4.0}, LLAMA3], ids=["yarn", "llama3"])
def test_the_context_of_pre_training_beside_the_scaling_wins(tmp_path: Path, rope: dict[str, Any]) -> None:
    changes = {"rope_scaling": rope | {"original_max_position_embeddings": 32}, "rope_theta": 100.0}
    changes |= {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
    directory = saved(make("llama", {}), tmp_path / "model", changes, drop="rope_parameters")
    config = assert_same_logits(directory).config
    assert config.rope_scaling is not None
    assert config.rope_scaling.original_max_seq_len == 16


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"rope_parameters": LLAMA3}),
        ("qwen2", {"rope_parameters": YARN}),
        ("starcoder2", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 90.0}}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
        ("gemma3_text", GEMMA),
    ],
)  # fmt: skip
def test_what_is_written_is_read_the_same_by_transformers_4_and_5(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    """Version 4 knows rope_theta and rope_scaling alone; 5 knows all of them, and must not read another thing."""
    model = make(model_type, changes)
    model.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    save(tmp_path / "back", loaded.model)
    assert_same_logits(tmp_path / "back", model)
    assert_same_logits(tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    parameters = parameters.get("full_attention", parameters)
    assert config["rope_theta"] == parameters["rope_theta"]
    assert "rope_theta" not in config.get("rope_scaling", {})
    (tmp_path / "back" / "config.json").write_text(json.dumps(config))  # what version 4 sees
    assert_same_logits(tmp_path / "back", model)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2}),
        ("qwen3_moe", {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "head_dim": 8}),
    ],
)
def test_experts_stored_as_one_tensor(tmp_path: Path, model_type: str, changes: dict[str, Any]) -> None:
    model = make(model_type, changes)
    model.save_pretrained(tmp_path / "model", save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(tmp_path / "model" / "model.safetensors")
    assert_same_logits(tmp_path / "model", model)


def test_experts_in_mxfp4_are_those_that_transformers_dequantises(tmp_path: Path) -> None:
    """As gpt-oss is published: four bits a value, and an exponent for each block of 32."""
    convert_moe_packed_tensors = pytest.importorskip("transformers.integrations.mxfp4").convert_moe_packed_tensors
    shape = {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8, "intermediate_size": 32}
    model = make("gpt_oss", shape | {"rope_parameters": {"rope_type": "default", "rope_theta": 90.0}})
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors, rng = load_file(path), torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=rng, dtype=torch.uint8)
        scales = torch.randint(121, 126, (experts, outputs, inputs // 32), generator=rng, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        model.get_parameter(name).data.copy_(convert_moe_packed_tensors(blocks, scales).float())
    save_file(tensors, path, metadata={"format": "pt"})
    assert_same_logits(tmp_path / "model", model)


TEXT = {name: value for name, value in SMALL.items() if name != "vocab_size"} | {"vocab_size": 61, "head_dim": 8}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WRAPPERS: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": TEXT | GEMMA, "vision_config": VISION | {"image_size": 28, "patch_size": 14}},
    "mistral3": {
        "text_config": TEXT | {"model_type": "mistral"},
        "vision_config": VISION | {"model_type": "pixtral", "image_size": 28, "patch_size": 14, "head_dim": 8},
    },
    "qwen2_5_vl": {
        "text_config": TEXT
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 90.0, "mrope_section": [1, 1, 2]}},
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 16,
            "out_hidden_size": 32,
        },
    },
}


@pytest.mark.parametrize("model_type", WRAPPERS)
@pytest.mark.parametrize("older_names", [False, True])
def test_the_text_half_of_a_model_that_sees_pictures(tmp_path: Path, model_type: str, older_names: bool) -> None:
    torch.manual_seed(0)
    reference = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model(model_type, **WRAPPERS[model_type]), attn_implementation="eager"
    ).eval()
    reference.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    if older_names and model_type == "qwen2_5_vl":
        tensors = {
            name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): t
            for name, t in tensors.items()
        }
    elif older_names:
        older = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
        older |= {f"model.{part}": part for part in ("vision_tower.", "multi_modal_projector.")}
        for new, old in older.items():
            tensors = {name.replace(new, old, 1) if name.startswith(new) else name: t for name, t in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.warns(LLMWarning, match="only its text half is read"):
        assert_same_logits(tmp_path / "model", reference)


def test_a_tokenizer_may_have_more_ids_than_the_model_has_rows(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train(["the text of the model " * 9], 300)
    backend = Backend.from_str(tokenizer._backend.to_str())
    backend.add_special_tokens(["<image_soft_token>"])
    model = make("gemma3_text", GEMMA | {"vocab_size": tokenizer.vocab_size})
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    backend.save(str(tmp_path / "model" / "tokenizer.json"))
    loaded = load_model(tmp_path / "model")
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.vocab_size == tokenizer.vocab_size + 1
    prepare_request(loaded.model.config, loaded.tokenizer, "the text", SamplingParams(max_new_tokens=1), truncate=True)
    with pytest.raises(ValueError, match=f"token id {tokenizer.vocab_size}"):
        prepare_request(
            loaded.model.config, loaded.tokenizer, "<image_soft_token>", SamplingParams(max_new_tokens=1), truncate=True
        )


def test_gemma_3_caps_its_attention_logits_as_the_code_of_its_makers_does(tmp_path: Path) -> None:
    """transformers stores attn_logit_softcapping of gemma3_text and does not use it; Google's Gemma applies it."""
    changes = GEMMA | {"attn_logit_softcapping": 4.0, "num_hidden_layers": 2}
    make("gemma3_text", changes).save_pretrained(tmp_path / "model")
    assert load_model(tmp_path / "model").model.config.attention_softcap == 4.0

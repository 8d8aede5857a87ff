"""Model directories: written atomically, recognised by content, and equivalent in transformers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import llm_jax.checkpoint.directory as directory_module
from llm_jax.checkpoint import GenerationDefaults, load_model, save_model
from llm_jax.checkpoint.family import canonical
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError
from llm_jax.model import Model, param_shapes
from llm_jax.tokenizers import CharacterTokenizer
from tests.compiled import forward

SIZES: dict[str, Any] = {"vocab_size": 37, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "max_seq_len": 24}
LLAMA: dict[str, Any] = SIZES | {
    "positions": "rotary", "norm": "rms_norm", "use_glu": True, "activation": "silu", "intermediate_size": 20,
    "embedding_scale": 1.0, "qkv_bias": False, "mlp_bias": False, "lm_head_bias": False,
}  # fmt: skip
GPT2: dict[str, Any] = SIZES | {
    "positions": "learned", "activation": "gelu_tanh", "embedding_scale": 1.0, "lm_head_bias": False,
    "tie_embeddings": True,
}  # fmt: skip
LLAMA3 = RopeScaling(kind="llama3", factor=4.0, original_max_seq_len=8)

CONFIGS = {
    "llama": ("llama", ModelConfig(**LLAMA)),
    "llama grouped, tied": ("llama", ModelConfig(**LLAMA | {"num_kv_heads": 2, "tie_embeddings": True})),
    "llama, biases": ("llama", ModelConfig(**LLAMA | {"qkv_bias": True, "mlp_bias": True, "head_dim": 6})),
    "llama 3 scaling": ("llama", ModelConfig(**LLAMA | {"rope_scaling": LLAMA3, "rope_theta": 5e5})),
    "llama linear scaling": ("llama", ModelConfig(**LLAMA, rope_scaling=RopeScaling(kind="linear", factor=2.0))),
    "gpt2": ("gpt2", ModelConfig(**GPT2)),
    "gpt2, untied relu": ("gpt2", ModelConfig(**GPT2 | {"tie_embeddings": False, "activation": "relu"})),
    "defaults": ("llm_decoder", ModelConfig(**SIZES)),
    "experts": ("llm_decoder", ModelConfig(**SIZES, use_moe=True, num_experts=3, top_k=2, use_glu=True)),
    "llama but windowed": ("smollm3", ModelConfig(**LLAMA, window_size=5, window_layers=(True, False))),
    "llama but scaled embeddings": ("granite", ModelConfig(**LLAMA | {"embedding_scale": None})),
    "llama but both": (
        "llm_decoder",
        ModelConfig(**LLAMA | {"embedding_scale": None}, window_size=5, window_layers=(True, False)),
    ),
    "scaled rope, post-norm": (
        "llm_decoder",
        ModelConfig(**SIZES, positions="rotary", rope_scaling=LLAMA3, norm_first=False, dropout=0.2),
    ),
}
every_config = pytest.mark.parametrize(("model_type", "config"), CONFIGS.values(), ids=CONFIGS)
TOKENS = np.random.default_rng(0).integers(0, 37, (2, 24))


def logits_of(model: Model) -> np.ndarray:
    return np.asarray(forward(model.config, model.params, jnp.asarray(TOKENS, jnp.int32)))


def random_model(config: ModelConfig) -> Model:
    """Weights at a scale where a wrong transposition or order shows, and no bias is zero."""
    rng = np.random.default_rng(1)
    specs = param_shapes(config)
    return Model(config, {n: jnp.asarray(rng.normal(0, 0.3, spec.shape), jnp.float32) for n, spec in specs.items()})


@every_config
def test_save_then_load_is_bit_identical(tmp_path: Path, model_type: str, config: ModelConfig) -> None:
    model = random_model(config)
    save_model(tmp_path / "model", model, max_shard_bytes=4000)
    assert (tmp_path / "model/model.safetensors.index.json").exists()
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == model_type
    loaded = load_model(tmp_path / "model").model
    assert set(loaded.params) == set(model.params)
    for name, value in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], value)
    assert canonical(loaded.config) == canonical(config)
    if model_type == "llm_decoder":
        assert loaded.config == config


@pytest.mark.parametrize("name", [name for name, (model_type, _) in CONFIGS.items() if model_type != "llm_decoder"])
def test_transformers_opens_a_saved_model_and_its_own_save_loads_here(tmp_path: Path, name: str) -> None:
    model = random_model(CONFIGS[name][1])
    save_model(tmp_path / "saved", model)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    reference.eval()
    with torch.no_grad():
        logits = reference(torch.from_numpy(TOKENS)).logits.numpy()
    np.testing.assert_allclose(logits_of(model), logits, atol=1e-4)

    reference.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again").model
    for parameter, value in model.params.items():
        np.testing.assert_array_equal(again.params[parameter], value)
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_random_transformers_models_load(tmp_path: Path, model_type: str) -> None:
    torch.manual_seed(0)
    config: transformers.PretrainedConfig
    if model_type == "llama":
        config = transformers.LlamaConfig(
            vocab_size=37,
            hidden_size=32,
            intermediate_size=52,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
            max_position_embeddings=32,
            initializer_range=0.2,
            eos_token_id=[3, 5],
        )
    else:
        config = transformers.GPT2Config(
            vocab_size=37,
            n_embd=32,
            n_layer=3,
            n_head=4,
            n_positions=32,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
        )
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    reference.save_pretrained(tmp_path / "safe")
    (tmp_path / "torch").mkdir()
    config.save_pretrained(tmp_path / "torch")
    state = (
        reference.transformer.state_dict() if model_type == "gpt2" else reference.state_dict()
    )  # gpt2 on the Hub has no head
    torch.save(state, tmp_path / "torch/pytorch_model.bin")
    with torch.no_grad():
        expected = reference(torch.from_numpy(TOKENS)).logits.numpy()
    for layout in ("safe", "torch"):
        loaded = load_model(tmp_path / layout)
        np.testing.assert_allclose(logits_of(loaded.model), expected, atol=1e-4)
        assert loaded.generation.eos_ids == ((3, 5) if model_type == "llama" else (2,))


def test_a_directory_has_its_tokenizer_and_the_ids(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer(["abcdefgh"])
    model = random_model(ModelConfig(**LLAMA))
    save_model(tmp_path / "model", model, tokenizer, GenerationDefaults(eos_ids=(2, 3), pad_id=8))
    loaded = load_model(tmp_path / "model")
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode("hag") == tokenizer.encode("hag")
    assert loaded.generation == GenerationDefaults(eos_ids=(2, 3), pad_id=8)
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == [2, 3]


def test_the_dtype_is_preserved_or_cast(tmp_path: Path) -> None:
    model = random_model(ModelConfig(**LLAMA))
    half = Model(model.config, {name: value.astype(jnp.bfloat16) for name, value in model.params.items()})
    save_model(tmp_path / "half", half)
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(tmp_path / "half").model.params["lm_head.weight"].dtype == jnp.bfloat16
    assert load_model(tmp_path / "half", dtype="float32").model.params["lm_head.weight"].dtype == jnp.float32


def test_a_failing_save_leaves_only_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = random_model(ModelConfig(**LLAMA)), random_model(ModelConfig(**SIZES))
    save_model(tmp_path / "model", old)

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(directory_module, "write_safetensors", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(tmp_path / "model", new)
    np.testing.assert_array_equal(logits_of(load_model(tmp_path / "model").model), logits_of(old))
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("swap", [True, False], ids=["in one step", "by two renames"])
def test_an_older_model_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> None:
    if not swap:
        monkeypatch.setattr("llm_jax.atomic._exchange", lambda a, b: False)
    old, new = random_model(ModelConfig(**LLAMA)), random_model(ModelConfig(**SIZES))
    save_model(tmp_path / "model", old, max_shard_bytes=4000)
    save_model(tmp_path / "model", new)
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "generation_config.json", "model.safetensors"]
    np.testing.assert_array_equal(logits_of(load_model(tmp_path / "model").model), logits_of(new))
    assert os.listdir(tmp_path) == ["model"]


def test_a_directory_that_is_not_a_model_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a model directory"):
        save_model(tmp_path, random_model(ModelConfig(**SIZES)))
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_model_with_wrong_parameters_is_not_saved(tmp_path: Path) -> None:
    model = random_model(ModelConfig(**SIZES))
    wrong = {name: value for name, value in model.params.items() if name != "lm_head.bias"}
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.bias"):
        save_model(tmp_path / "model", Model(model.config, wrong))
    assert not (tmp_path / "model").exists()


def test_a_run_directory_gives_its_best_model_else_its_last(tmp_path: Path) -> None:
    best, last = random_model(ModelConfig(**SIZES)), random_model(ModelConfig(**LLAMA))
    (tmp_path / "run/state").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(tmp_path / "run")
    save_model(tmp_path / "run/last", last)
    assert load_model(tmp_path / "run").path.name == "last"
    save_model(tmp_path / "run/best", best)
    assert load_model(tmp_path / "run").path.name == "best"
    assert load_model(tmp_path / "run/state").path.name == "last"


def test_a_single_safetensors_file_loads_by_its_path(tmp_path: Path) -> None:
    model = random_model(ModelConfig(**LLAMA))
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model/model.safetensors")
    np.testing.assert_array_equal(logits_of(loaded.model), logits_of(model))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba'; known families are"),
        ({"hidden_size": 18}, "missing|misshaped|multiple of num_heads"),
        ({"intermediate_size": 24}, r"gate_proj\.weight is \[20, 16\] where \[24, 16\] is expected"),
        ({"num_hidden_layers": 3}, r"missing: model\.layers\.2\.input_layernorm\.weight"),
        ({"num_hidden_layers": 1}, r"unexpected: model\.layers\.1\."),
        ({"num_key_value_heads": 3}, "divisor of num_heads"),
        ({"hidden_act": "mish"}, "activation is 'mish'"),
        ({"rope_parameters": {"rope_type": "proportional", "factor": 2.0}}, "type 'proportional'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "lacks 'low_freq_factor'"),
        ({"vocab_size": None}, "does not describe a llama model"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    save_model(tmp_path / "model", random_model(ModelConfig(**LLAMA)))
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=complaint):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_a_broken_config_is_refused(tmp_path: Path, content: str) -> None:
    save_model(tmp_path / "model", random_model(ModelConfig(**LLAMA)))
    (tmp_path / "model/config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(tmp_path / "model")


def test_the_error_about_an_unknown_entry_names_the_nearest(tmp_path: Path) -> None:
    save_model(tmp_path / "model", random_model(ModelConfig(**SIZES)))
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hiden_size": 4}))
    with pytest.raises(CheckpointError, match="hiden_size; did you mean hidden_size"):
        load_model(tmp_path / "model")


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(tmp_path)
    shutil.copy(__file__, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="not a torch file"):
        load_model(tmp_path / "model.pt")

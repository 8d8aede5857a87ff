"""Adapters: PEFT's files in both directions, on families that divide their matrices in different ways."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, PreTrainedModel

import llm_jax.model
from cli.convert import main as convert
from llm_jax.checkpoint import load_model, new_adapter, read_adapter, save_model, write_adapter
from llm_jax.config import LoraConfig, ModelConfig
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.hub import from_pretrained
from llm_jax.model import Adapter, Model, adapted, init_lora, init_params, low_rank
from tests.checkpoint.families_of_transformers import SHAPES, make, save
from tests.compiled import forward

# peft asks transformers under a name that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
TOKENS = np.random.default_rng(0).integers(0, 37, (2, 12)).astype(np.int32)
# Family -> what peft is asked for: separate q, k and v, with biases too; [in, out] matrices; q, k and v fused head by
# head; fused gates; rotated pairs that are neighbouring rows; experts beside the attention.
ADAPTERS: dict[str, dict[str, Any]] = {
    "llama": {"target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {"v_proj": 2}, "use_rslora": True},
    "qwen2": {"target_modules": "all-linear", "alpha_pattern": {"self_attn.k_proj": 3}, "use_dora": True},
    "gpt2": {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True},
    "gpt_neox": {"target_modules": ["query_key_value"], "use_dora": True},
    "phi3": {"target_modules": "all-linear", "use_dora": True},
    "cohere": {"target_modules": r"model\.layers\.0\.self_attn\.[qk]_proj"},
    "mixtral": {"target_modules": ["k_proj", "o_proj"]},
}
FIRST_SHAPES = {model_type: shape for (model_type, _), shape in reversed(SHAPES.items())}


@pytest.fixture(scope="module", params=ADAPTERS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(the model of transformers, its directory, the adapted model of peft, its directory)."""
    model_type, folder = request.param, tmp_path_factory.mktemp(request.param)
    base = make(model_type, FIRST_SHAPES[model_type] | {"num_hidden_layers": 2 if model_type == "llama" else 1})
    save(base, folder / "base")
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 7, **ADAPTERS[model_type], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    reloaded = AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = peft.get_peft_model(reloaded, peft.LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "magnitude" in name:
                value.mul_(torch.rand(value.shape) + 0.5)
    theirs.save_pretrained(folder / "adapter")
    return base, folder / "base", theirs, folder / "adapter"


def logits_of(model: PreTrainedModel) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


@partial(jax.jit, static_argnums=(0, 1))
def beside(config: ModelConfig, adapter: Adapter, lora: Any, base: Any) -> jax.Array:
    return llm_jax.model.forward(config, adapted(adapter, lora, base), jnp.asarray(TOKENS))


def test_an_adapters_dropout_draws_nothing_that_the_decoder_draws() -> None:
    """The decoder's keys are those of its layers' numbers, the embedding's one behind the last."""
    config = ModelConfig(vocab_size=8, hidden_size=4, num_layers=2, num_heads=1, max_seq_len=8)
    adapter = new_adapter(LoraConfig(rank=2, targets=("qkv_proj", "fc1"), dropout=0.5), config)
    base, key = init_params(config), jax.random.key(0)
    params = adapted(adapter, init_lora(adapter, base, 0), base, dropout_key=key)
    keys = [value for name, value in params.items() if name.endswith(".lora.key")]
    keys += [jax.random.fold_in(key, i) for i in range(config.num_layers + 1)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys) == 4 + 3


def our_logits(model: Model) -> np.ndarray:
    return np.asarray(forward(model.config, model.params, jnp.asarray(TOKENS)))


def test_an_adapter_of_peft_gives_its_logits_merged_and_unmerged(trained: Any) -> None:
    base, directory, theirs, folder = trained
    expected = logits_of(theirs)
    assert np.abs(expected - logits_of(base)).max() > 1e-3, "the adapter changes something"
    model = load_model(directory).model
    loaded = read_adapter(folder, model.config)
    unmerged = beside(model.config, loaded.adapter, loaded.params, model.params)
    np.testing.assert_allclose(unmerged, expected, atol=2e-5)
    merged = from_pretrained(folder)
    assert loaded.base == str(directory)
    np.testing.assert_allclose(our_logits(merged.model), unmerged, atol=1e-5)


def test_peft_opens_an_adapter_of_ours_with_equal_logits(trained: Any, tmp_path: Path) -> None:
    base, directory, theirs, _ = trained
    model = load_model(directory).model
    theirs_config = theirs.peft_config["default"]
    named = theirs_config.target_modules if isinstance(theirs_config.target_modules, str) else None
    lora = LoraConfig(
        rank=3,
        targets=named or tuple(theirs_config.target_modules),
        rslora=theirs_config.use_rslora,
        dora=theirs_config.use_dora,
        rank_pattern={r"layers\.1\..*": 5, "k_proj": 2},
        alpha_pattern={"v_proj": 4.0},
    )
    adapter = new_adapter(lora, model.config, directory)
    params = init_lora(adapter, model.params, 3)
    untrained = beside(model.config, adapter, params, model.params)
    np.testing.assert_allclose(untrained, our_logits(model), atol=1e-5, err_msg="B is zero")
    random = np.random.default_rng(0)
    params = {name: value + np.float32(0.3) * random.normal(size=value.shape) for name, value in params.items()}
    params = {name: np.asarray(value, np.float32) for name, value in params.items()}
    write_adapter(tmp_path / "ours", adapter, params, lora, model.config, base=str(directory))
    opened = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(directory), tmp_path / "ours").eval()
    assert sum(value.numel() for name, value in opened.named_parameters() if "lora" in name) == sum(
        value.size for value in params.values()
    )
    ours = beside(model.config, adapter, params, model.params)
    assert np.abs(ours - logits_of(base)).max() > 1e-3
    np.testing.assert_allclose(logits_of(opened), ours, atol=5e-5)
    again = read_adapter(tmp_path / "ours", model.config)
    assert again.adapter == adapter
    assert all((again.params[name] == value).all() for name, value in params.items())


TINY = ModelConfig(
    vocab_size=37, hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, max_seq_len=16, positions="rotary",
    norm="rms_norm", use_glu=True, activation="silu", qkv_bias=False, mlp_bias=False, lm_head_bias=False,
    embedding_scale=1.0, dropout=0.0,
)  # fmt: skip


def test_an_engine_gets_one_pair_of_factors_for_each_linear_map() -> None:
    """Block-diagonal beside a fused matrix: rank 3 for q, none for k, rank 2 for v."""
    adapter = new_adapter(LoraConfig(rank=3, targets=("q_proj", "v_proj"), rank_pattern={"v_proj": 2}), TINY)
    model = Model.init(TINY)
    params = {name: jnp.ones(shape) for name, shape in adapter.shapes().items()}
    factors = low_rank(adapter, params, model.params)["transformer_blocks.1.self_attn.qkv_proj"]
    assert factors.a_QI.shape == (5, 16)
    used = np.asarray(factors.b_OQ) != 0
    assert factors.b_OQ.shape == (32, 5)
    assert used[:16, :3].all()
    assert used[24:, 3:].all()
    assert used.sum() == 16 * 3 + 8 * 2


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (("q_pro",), "lora.targets has q_pro, and no linear map is called so. Did you mean q_proj"),
        (("wq",), "no linear map is called so. The linear maps are down_proj"),
        (("embed_tokens",), "model.embed_tokens cannot have an adapter"),
        (r"model\.layers\.7\..*", "no linear map"),
    ],
)
def test_a_target_that_is_not_there_is_refused(targets: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        new_adapter(LoraConfig(rank=2, targets=targets), TINY)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    lora = LoraConfig(rank=2, targets=("q_proj",))
    adapter = new_adapter(lora, TINY)
    params = {name: np.zeros(shape, np.float32) for name, shape in adapter.shapes().items()}
    write_adapter(tmp_path / "adapter", adapter, params, lora, TINY)
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("entry", "value", "says"),
    [
        ("peft_type", "IA3", "type 'IA3'; LORA is supported"),
        ("modules_to_save", ["lm_head"], r'modules_to_save: \["lm_head"\], which is not supported'),
        ("bias", "all", 'bias: "all", which is not supported'),
        ("init_lora_weights", "pissa", "pissa"),
        ("r", 4, r"is \[2, 16\] where \[4, 16\] is expected"),
    ],
)
def test_what_an_adapter_has_that_is_not_computed_is_refused(written: Path, entry: str, value: Any, says: str) -> None:
    entries = json.loads((written / "adapter_config.json").read_text())
    (written / "adapter_config.json").write_text(json.dumps(entries | {entry: value}))
    with pytest.raises(CheckpointError, match=says):
        read_adapter(written, TINY)


def test_llm_convert_merges_an_adapter(tmp_path: Path) -> None:
    lora, model = LoraConfig(rank=2, targets=("v_proj", "down_proj")), Model.init(TINY)
    adapter = new_adapter(lora, TINY)
    params = {name: np.full(shape, 0.1, np.float32) for name, shape in adapter.shapes().items()}
    save_model(tmp_path / "base", model)
    write_adapter(tmp_path / "adapter", adapter, params, lora, TINY, base="base that has moved")
    places = [str(tmp_path / name) for name in ("base", "merged", "adapter")]
    result = CliRunner().invoke(convert, [*places[:2], "--adapter", places[2]])
    assert result.exit_code == 0, result.output
    expected = beside(TINY, adapter, params, model.params)
    np.testing.assert_allclose(our_logits(load_model(tmp_path / "merged").model), expected, atol=1e-5)


def test_an_adapter_of_another_model_and_one_without_its_base_are_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no linear map of this model"):
        read_adapter(written, ModelConfig(**{**TINY.to_dict(), "num_layers": 1}))
    with pytest.raises(CheckpointError, match="its base model  is not here"):
        load_model(written)
    with pytest.raises(CheckpointError, match="exists and is not an adapter"):
        write_adapter(tmp_path, new_adapter(LoraConfig(rank=1), TINY), {}, LoraConfig(rank=1), TINY)

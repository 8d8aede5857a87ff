"""What entries of a GGUF file mean is what llama.cpp makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_jax.checkpoint import convert, open_model
from llm_jax.config import RopeScaling
from llm_jax.errors import CheckpointError, LLMWarning
from tests.checkpoint.families_of_transformers import GEMMA, SMALL, make, save
from tests.checkpoint.gguf_files import logits_of_llama_cpp, with_entries
from tests.compiled import forward

CONTEXT = 32
TOKENS = np.random.default_rng(0).integers(0, SMALL["vocab_size"], CONTEXT)


def converted(folder: Path, model_type: str, **changes: Any) -> Path:
    """The GGUF file of a model of transformers."""
    model = make(model_type, {"max_position_embeddings": CONTEXT} | changes)
    convert(open_model(save(model, folder / "model")), folder / "model.gguf")
    return folder / "model.gguf"


def logits_of(path: Path) -> np.ndarray:
    stored = open_model(path)
    params = {name: np.asarray(tensor) for name, tensor in stored.params.items()}
    return np.asarray(forward(stored.config, params, TOKENS[None]))[0]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A file without any scaling of rotary positions, and its logits."""
    path = converted(tmp_path_factory.mktemp("llama"), "llama")
    return path, logits_of(path)


YARN = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 8}


@pytest.mark.parametrize(
    "entries",
    [
        {"scaling.type": "linear", "scaling.factor": 3.0},
        {"scaling.factor": 3.0},  # without a type it is linear
        {"scale_linear": 3.0},
        {"scaling.type": "linear", "scaling.factor": 3.0, "scaling.attn_factor": 1.4},
        YARN,
        YARN | {"scaling.original_context_length": None},
        YARN | {"scaling.attn_factor": 1.4},
    ],
    ids=str,
)  # fmt: skip
def test_scaling_of_rotary_positions(llama: tuple[Path, np.ndarray], tmp_path: Path, entries: dict[str, Any]) -> None:
    path, unscaled = llama
    changed, _ = with_entries(path, tmp_path / "x.gguf", {f"llama.rope.{name}": entries[name] for name in entries})
    logits = logits_of(changed)
    assert np.abs(logits - unscaled).max() > 0.01
    np.testing.assert_allclose(logits, logits_of_llama_cpp(changed, TOKENS, CONTEXT), atol=1e-4)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"yarn_beta_fast": 4.0, "yarn_beta_slow": 0.5}, {"beta_fast": 4.0, "beta_slow": 0.5}),
        ({"yarn_ext_factor": 0.0}, {"kind": "linear", "original_max_seq_len": 8192}),  # no ramp, and no magnitude
        ({"yarn_ext_factor": 0.0, "yarn_attn_factor": 0.7, "attn_factor": 2.0},
         {"kind": "linear", "original_max_seq_len": 8192, "attention_factor": 1.4}),
        ({"type": "linear", "yarn_ext_factor": 1.0}, {}),
        ({"yarn_attn_factor": 0.7}, {}),  # with a ramp the magnitude follows from the factor …
        ({"yarn_log_multiplier": 1.0}, {"attention_factor": 1.0}),  # … and from DeepSeek's mscale_all_dim
    ],
    ids=str,
)  # fmt: skip
def test_scaling_by_entries_that_llama_cpp_reads_for_some_architectures(
    llama: tuple[Path, np.ndarray], tmp_path: Path, entries: dict[str, Any], expected: dict[str, Any]
) -> None:
    """For those its converter writes what the model's maker said, which holds here for all."""
    entries = YARN | {f"scaling.{name}": value for name, value in entries.items()}
    changed, _ = with_entries(llama[0], tmp_path / "x.gguf", {f"llama.rope.{name}": entries[name] for name in entries})
    scaling = RopeScaling(**{"kind": "yarn", "factor": 4.0, "original_max_seq_len": 8} | expected)
    assert open_model(changed).config.rope_scaling == scaling


def test_a_factor_of_no_scaling_changes_nothing(llama: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, unscaled = llama
    entries = {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 3.0}
    changed, _ = with_entries(path, tmp_path / "x.gguf", entries)
    np.testing.assert_array_equal(logits_of(changed), unscaled)
    np.testing.assert_allclose(logits_of_llama_cpp(changed, TOKENS, CONTEXT), unscaled, atol=1e-4)


@pytest.mark.parametrize("name", ["rope.scaling.yarn_gamma", "attention.temperature_scale", "rope.dimension_sections"])
def test_an_entry_that_is_not_known_is_refused(llama: tuple[Path, np.ndarray], tmp_path: Path, name: str) -> None:
    changed, _ = with_entries(llama[0], tmp_path / "x.gguf", {f"llama.{name}": 2.0})
    with pytest.raises(CheckpointError, match=rf"llama\.{name} = 2\.0, which is not known here"):
        open_model(changed)


@pytest.mark.parametrize("pattern", [None, 2, 4, [True, True, False, True, False, False]], ids=str)
def test_which_layers_have_a_window(tmp_path: Path, pattern: Any) -> None:
    path = converted(tmp_path, "gemma3_text", **GEMMA | {"num_hidden_layers": 6, "query_pre_attn_scalar": 12})
    changed, _ = with_entries(path, tmp_path / "x.gguf", {"gemma3.attention.sliding_window_pattern": pattern})
    # llama.cpp looks GELU up in a table of float16.
    np.testing.assert_allclose(logits_of(changed), logits_of_llama_cpp(changed, TOKENS, CONTEXT), atol=5e-3)


@pytest.mark.parametrize(("model_type", "layers"), [("gemma2", 46), ("gemma3_text", 62)])
def test_models_of_27b_have_another_attention_scale(tmp_path: Path, model_type: str, layers: int) -> None:
    """llama.cpp knows them by their number of layers alone; other models with such a scale cannot be written."""
    scalar = SMALL["hidden_size"] // SMALL["num_attention_heads"]
    shape = GEMMA | {"query_pre_attn_scalar": scalar, "max_position_embeddings": CONTEXT}
    model = make(model_type, shape | {"num_hidden_layers": layers})
    save(model, tmp_path / "model")
    convert(open_model(tmp_path / "model"), tmp_path / "model.gguf")
    config = open_model(tmp_path / "model.gguf").config
    assert config.attention_multiplier == scalar**-0.5 != config.head_size**-0.5
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)[None]).logits[0].numpy()
    logits = logits_of_llama_cpp(tmp_path / "model.gguf", TOKENS, CONTEXT)
    np.testing.assert_allclose(logits, expected, atol=0.05)  # GELU from a table of float16, in all these layers
    for count, head_scalar in ((layers, GEMMA["head_dim"]), (layers - 1, scalar)):
        other = make(model_type, shape | {"num_hidden_layers": count, "query_pre_attn_scalar": head_scalar})
        with pytest.raises(CheckpointError, match="attention_scale"):
            convert(open_model(save(other, tmp_path / f"other{count}")), tmp_path / "other.gguf")


def test_a_file_in_parts_is_read_whole_from_its_first(llama: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, logits = llama
    with_entries(path, tmp_path / "x.gguf", {}, parts=3)
    first, second, third = sorted(tmp_path.iterdir())
    assert first.name == "x-00001-of-00003.gguf"
    np.testing.assert_array_equal(logits_of(first), logits)
    np.testing.assert_allclose(logits_of_llama_cpp(first, TOKENS, CONTEXT), logits, atol=1e-4)
    third.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"part 1 of 3, and part 3 is missing: put x-00003-of-00003\.gguf"):
        open_model(first)
    third.write_bytes(second.read_bytes())
    with pytest.raises(CheckpointError, match=r"x-00003-of-00003\.gguf is not part 3 of"):
        open_model(first)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_what_has_no_scale_in_half_precision_stays_in_f32(tmp_path: Path, factor: float) -> None:
    """A block's scale is its largest value over 127, a float16: below about 4e-6 and above 8e6 there is none."""
    model = make("llama", {})
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] *= factor
    source = open_model(save(model, tmp_path / "model"))
    with pytest.warns(LLMWarning, match=r"^blk\.1\.ffn_up\.weight stay in f32"):
        convert(source, tmp_path / "model.gguf", dtype="q8_0")
    back = open_model(tmp_path / "model.gguf")
    for name, tensor in source.params.items():
        exact, stored = np.asarray(tensor), np.asarray(back.params[name])
        if name == "transformer_blocks.1.mlp.gate_proj.weight" or exact.ndim == 1:
            np.testing.assert_array_equal(stored, exact)
        elif exact.shape[1] % 32 == 0:
            step = np.abs(exact.reshape(-1, 32)).max(-1, keepdims=True) / 127
            assert (np.abs(exact - stored).reshape(-1, 32) <= 0.57 * step).all()

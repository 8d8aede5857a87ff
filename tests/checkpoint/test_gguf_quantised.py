"""Quantised GGUF files: written, read, and run at their own precision."""

from pathlib import Path

import jax
import numpy as np
import pytest

from llm_jax.checkpoint import convert, load_model, open_model
from llm_jax.demo import PATH
from llm_jax.evaluation import input_importance
from llm_jax.kernels import BlockMatrix, Level, QuantisedMatrix, best_level
from llm_jax.model import cast_model, weight_types
from tests.compiled import forward

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.skipif(best_level() == Level.XLA, reason="no native kernels here")
TEXT = "Once upon a time, there was a little girl who had a dog. They went to the park and played all day."
KINDS = ("q4_0", "q4_k_m", "q6_k", "q8_0")


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    convert(open_model(PATH), path, dtype=request.param)
    return path


def test_what_is_written_is_near_and_of_the_type(file: Path) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    expected = {"q4_0": {"Q4_0", "Q6_K"}, "q4_k_m": {"Q4_K", "Q6_K"}, "q6_k": {"Q6_K"}, "q8_0": {"Q8_0"}}[file.stem]
    shorter = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}  # where rows are no multiple of 256
    for tensor in tensors.values():
        if len(tensor.shape) > 1:
            whole = tensor.shape[0] % 256 == 0
            assert tensor.tensor_type.name in (expected if whole else {shorter.get(type_, type_) for type_ in expected})
    exact = np.asarray(open_model(PATH).params["transformer_blocks.0.mlp.fc2.weight"], np.float32)
    tensor = tensors["blk.0.ffn_down.weight"]
    error = gguf.dequantize(tensor.data, tensor.tensor_type) - exact
    most = {"Q4_0": 0.1, "Q4_K": 0.09, "Q5_0": 0.05, "Q6_K": 0.025, "Q8_0": 0.007}[tensor.tensor_type.name]
    assert np.sqrt(np.mean(error**2)) < most * exact.std()


def test_blocks_are_the_weights(file: Path) -> None:
    loaded = load_model(file, mapped=True)
    assert any(isinstance(value, QuantisedMatrix) for value in loaded.model.params.values())
    packed, compute = cast_model(loaded.model, "auto")
    exact, _ = cast_model(loaded.model, "float32")
    assert isinstance(packed.params["transformer_blocks.0.mlp.fc1.weight"], BlockMatrix)
    assert "float32" not in weight_types(packed)
    size = sum({id(value): value.nbytes for value in jax.tree.leaves(packed.params)}.values())  # some are shared
    assert size < 1.15 * file.stat().st_size
    assert loaded.tokenizer is not None
    tokens = np.array([loaded.tokenizer.encode(TEXT)])
    ours = np.asarray(forward(packed.config, packed.params, tokens, dtype=compute))
    dequantised = np.asarray(forward(exact.config, exact.params, tokens, dtype="float32"))
    # Only x is rounded, to 1/254 of the largest of 32.
    assert np.abs(ours - dequantised).max() < 0.04 * np.abs(dequantised).max()


def test_a_quantised_file_is_copied_bit_for_bit(file: Path, tmp_path: Path) -> None:
    convert(open_model(file), tmp_path / "again.gguf", dtype=file.stem)
    assert (tmp_path / "again.gguf").read_bytes() == file.read_bytes()


def test_importance_makes_what_a_text_uses_more_exact(tmp_path: Path) -> None:
    loaded = load_model(PATH)
    assert loaded.tokenizer is not None
    weights = input_importance(loaded.model, loaded.tokenizer, TEXT)
    name = "transformer_blocks.1.mlp.fc2.weight"
    exact, errors = np.asarray(loaded.model.params[name], np.float32), []
    for given in (None, weights):
        convert(open_model(PATH), tmp_path / "model.gguf", dtype="q4_0", importance=given)
        error = np.asarray(open_model(tmp_path / "model.gguf").params[name]) - exact
        errors.append((error**2 @ weights[name]).sum())
    assert errors[1] < 0.95 * errors[0]


def test_every_type_that_the_library_dequantises_is_read() -> None:
    from llm_jax.checkpoint.formats.gguf.file import NOT_READ
    from llm_jax.checkpoint.formats.gguf.types import TYPES

    known = {type_.name for type_ in gguf.quants._type_traits} | {"F32", "F16", "F64"}
    assert {type_.name for type_ in TYPES.values()} - NOT_READ == known


def test_other_types_become_one_of_the_kernels() -> None:
    from llm_jax.checkpoint.formats.gguf.file import _as_kernels_have_them

    rng = np.random.default_rng(0)
    for name in ("Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "TQ2_0", "MXFP4", "IQ3_S"):
        type_ = gguf.GGMLQuantizationType[name]
        values, size = gguf.GGML_QUANT_SIZES[type_]
        blocks = rng.integers(0, 100, (4, 512 // values, size), dtype=np.uint8)
        if name == "MXFP4":
            blocks[..., 0] = rng.integers(115, 125, blocks.shape[:2])  # an exponent
        blocks = blocks.reshape(4, -1)
        exact = gguf.dequantize(blocks, type_)
        part = _as_kernels_have_them(gguf, blocks, type_)
        near = gguf.dequantize(part.rows, gguf.GGMLQuantizationType[part.format])
        assert np.abs(near - exact).max() <= np.abs(exact).max() / 240

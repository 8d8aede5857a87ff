"""Products with weights in blocks of 4 to 8 bits, against the gguf library's values in float64."""

import queue
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.kernels import (
    FORMATS,
    PANEL,
    BlockRows,
    Format,
    Level,
    Norm,
    PackedMatrix,
    features,
    join,
    matmul,
    pack_blocks,
    quantise,
    rows,
    values,
)
from llm_jax.kernels.cpu.blocks import aligned
from llm_jax.kernels.packing import on_device

gguf = pytest.importorskip("gguf")
NATIVE = [level for level in features() if level != Level.XLA]
pytestmark = pytest.mark.skipif(not NATIVE, reason="no native kernels here")

every_format = pytest.mark.parametrize("format", FORMATS)
every_level = pytest.mark.parametrize("level", NATIVE)
product = jax.jit(matmul, static_argnames=("activation", "out_dtype"))
values_of, rows_of = jax.jit(values), jax.jit(rows)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blocks(format: Format, O: int, I: int, seed: int = 1) -> BlockRows:
    """Random rows: every bit is used, and scales are of about one size."""
    rng, layout = np.random.default_rng(seed), FORMATS[format]
    made = rng.integers(0, 256, (O, I // layout.values, layout.bytes), dtype=np.uint8)
    halves = {"Q4_0": [0], "Q5_0": [0], "Q8_0": [0], "Q6_K": [208]}.get(format, [0, 2])  # where a block has float16
    for at in halves:
        scale = (rng.normal(size=made.shape[:2]) * 0.01).astype(np.float16)
        made[..., at : at + 2] = scale[..., None].view(np.uint8)
    return BlockRows(format, made.reshape(O, -1))


def dequantised(part: BlockRows) -> np.ndarray:
    return gguf.dequantize(part.rows, gguf.GGMLQuantizationType[part.format])


def sizes(format: Format) -> list[tuple[int, int]]:
    """Outputs and inputs: no whole panels, no whole records."""
    return [(50, 512), (1, 256), (35, 768 if FORMATS[format].values == 256 else 416)]


def rounded(x: np.ndarray) -> np.ndarray:
    """x with each 32 values in 255 levels, at the scale of least squared error, as the kernels have it."""
    groups = x.reshape(len(x), -1, 32)
    largest = np.abs(groups).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    levels = np.rint(groups * inverse).astype(np.float64)
    squares = (levels**2).sum(-1, keepdims=True)
    scale = np.divide((levels * groups).sum(-1, keepdims=True), squares, out=np.zeros_like(squares), where=squares > 0)
    return (levels * scale).reshape(x.shape)


@every_format
def test_values_are_the_library_s(format: Format) -> None:
    for O, I in sizes(format):
        part = blocks(format, O, I)
        packed, expected = pack_blocks([part]), dequantised(part)
        np.testing.assert_array_equal(values_of(packed), expected)
        ids = np.array([[0, O - 1], [O // 2, O // 3]])
        np.testing.assert_array_equal(rows_of(packed, ids), expected[ids])


def test_matrices_in_one_array_are_the_same() -> None:
    parts = [blocks("Q4_1", 50, 416), blocks("Q6_K", 16, 512), blocks("Q8_0", 35, 64), blocks("Q4_0", 8192, 512)]
    alone = {str(i): pack_blocks([part]) for i, part in enumerate(parts)}
    joined = join(alone)
    assert joined["0"].tiles is joined["1"].tiles is joined["2"].tiles
    assert joined["3"] is alone["3"]  # it has huge pages of its own
    for name, matrix in join(joined).items():  # once more: a model may be cast again
        x, before = random(5, 3, matrix.shape[1]), alone[name]
        np.testing.assert_array_equal(product(x, matrix), product(x, before))
        np.testing.assert_array_equal(values_of(matrix), values_of(before))
        np.testing.assert_array_equal(rows_of(matrix, np.array([2, 5])), rows_of(before, np.array([2, 5])))


@every_level
@every_format
def test_products_round_x_alone(format: Format, level: Level) -> None:
    for O, I in sizes(format):
        part = blocks(format, O, I)
        packed, weight = pack_blocks([part], level=level), dequantised(part).astype(np.float64)
        for M in (1, 7, 70):
            x = random(2, M, I)
            exact = rounded(x) @ weight.T
            # Sums over a group are exact; those of groups and a few products are rounded to float32.
            size = np.abs(rounded(x)) @ np.abs(weight).T + 32 * np.abs(x).max() * np.abs(weight).max()
            assert (np.abs(product(x, packed) - exact) <= size * I / 32 * 2.0**-23).all()


@every_level
@every_format
def test_a_row_does_not_depend_on_its_batch(format: Format, level: Level) -> None:
    packed, x = pack_blocks([blocks(format, 70, 768)], level=level), random(3, 512, 768)
    whole = np.asarray(product(x, packed))
    for M in (1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 65, 129):
        np.testing.assert_array_equal(product(x[512 - M :], packed), whole[512 - M :])


@every_level
def test_extremes_do_not_overflow(level: Level) -> None:
    I = 512
    for format, byte in (("Q4_0", 0x00), ("Q4_1", 0xFF), ("Q5_1", 0xFF), ("Q8_0", 0x80), ("Q6_K", 0x00)):
        part = blocks(format, PANEL, I)
        layout, halves = FORMATS[format], [208, 209] if format == "Q6_K" else [0, 1]
        made = np.full((PANEL, I // layout.values, layout.bytes), byte, np.uint8)
        made[..., halves] = part.rows.reshape(made.shape)[..., halves]
        if format in ("Q4_1", "Q5_1"):
            made[..., 2:4] = 0
        part = BlockRows(format, made.reshape(PANEL, -1))
        x = np.array([[1], [-1]], np.float32) * np.ones((1, I), np.float32)
        exact = x.astype(np.float64) @ dequantised(part).T.astype(np.float64)
        np.testing.assert_allclose(product(x, pack_blocks([part], level=level)), exact, rtol=1e-5)


@every_level
def test_parts_in_several_formats_are_one_matrix(level: Level) -> None:
    parts = [blocks("Q5_0", 48, 512), blocks("Q4_K", 16, 512, 2), blocks("Q8_0", 37, 512, 3)]
    x, residual = random(4, 9, 512), random(5, 9, 101)
    y = product(x, pack_blocks(parts, level=level), residual=residual)
    each = [np.asarray(product(x, pack_blocks([part], level=level))) for part in parts]
    np.testing.assert_array_equal(y, np.concatenate(each, axis=1) + residual)


@every_level
@pytest.mark.parametrize(("first", "second"), [("Q4_0", "Q4_0"), ("Q4_K", "Q6_K")])
def test_norm_gate_and_bias_equal_xla(level: Level, first: Format, second: Format) -> None:
    O, I = 40, 256
    parts = [blocks(first, O, I), blocks(second, O, I, 2)]
    weights = np.concatenate([dequantised(part) for part in parts])
    norm = Norm(random(4, I), random(5, I), 1e-5, True)
    x, bias, residual = random(6, 33, I), random(7, 2, O), random(8, 33, O)
    plain = PackedMatrix(weights.T, None, None, "float32", Level.XLA, (O, I), True)
    settings = {"norm": norm, "activation": "silu", "residual": residual}
    expected = np.asarray(product(x, plain, bias, **settings))
    y = product(x, pack_blocks(parts, gated=True, level=level), bias, **settings)
    np.testing.assert_allclose(y, expected, rtol=3e-2, atol=3e-2 * np.abs(expected).max())
    xla = product(x, pack_blocks(parts, gated=True, level=Level.XLA), bias, **settings)
    np.testing.assert_allclose(xla, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@every_level
def test_inputs_that_fill_no_block(level: Level) -> None:
    weight, x = random(1, 20, 45), random(2, 3, 45)
    packed = pack_blocks([quantise(weight, "Q4_1")], inputs=45, level=level)
    assert packed.shape == (20, 45)
    exact = np.pad(x, [(0, 0), (0, 19)]) @ np.pad(np.asarray(values_of(packed)), [(0, 0), (0, 19)]).T
    np.testing.assert_allclose(product(x, packed), exact, atol=2e-2 * np.abs(exact).max())


@pytest.mark.parametrize("format", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"])
def test_quantising_is_no_worse_than_rounding(format: Format) -> None:
    weight = random(1, 64, 512) * 0.02
    weight[:, :40] = 0.0
    error = dequantised(quantise(weight, format)) - weight
    steps = {"Q4_0": 16, "Q4_1": 15, "Q8_0": 254, "Q4_K": 15, "Q6_K": 63}[format]
    group = weight.reshape(-1, 16 if format == "Q6_K" else 32)
    span = 2 * np.abs(group).max(-1) if format in ("Q4_0", "Q8_0", "Q6_K") else group.max(-1) - group.min(-1)
    plain = np.sqrt(np.mean(span**2) / 12) / steps  # deviation of uniform rounding
    assert np.sqrt(np.mean(error**2)) < 1.1 * plain
    assert FORMATS[format].values in (32, 256)


def test_importance_moves_the_error_to_where_it_counts_less() -> None:
    weight, importance = random(1, 64, 512), np.where(np.arange(512) % 4, 0.01, 1.0).astype(np.float32)
    for format in ("Q4_0", "Q4_1", "Q4_K", "Q6_K"):
        errors = [
            (dequantised(quantise(weight, format, given)) - weight) ** 2 @ importance for given in (None, importance)
        ]
        assert errors[1].mean() < 0.95 * errors[0].mean()


def test_packed_tiles_are_used_where_they_lie_and_no_thread_of_xlas_gives_them_back() -> None:
    """It would wait for the interpreter's lock, and abort a process whose interpreter ends meanwhile."""
    step = jax.jit(lambda tiles, x: jax.lax.fori_loop(0, 30, lambda i, x: jnp.sin(x @ x), x).sum() + tiles[0])
    x = jnp.eye(256)
    jax.block_until_ready(step(jnp.zeros(1 << 20, jnp.uint8), x))
    memory = aligned(1 << 20)
    memory[:] = 0
    given_back: queue.Queue[int] = queue.Queue()
    weakref.finalize(memory.base, lambda: given_back.put(threading.get_ident()))
    tiles = on_device(memory)
    assert tiles.unsafe_buffer_pointer() == memory.ctypes.data
    del memory
    result = step(tiles, x)
    del tiles
    jax.block_until_ready(result)
    while given_back.empty():  # by the next call of JAX
        jax.block_until_ready(jax.device_put(np.zeros(1)))
    assert given_back.get() == threading.get_ident()

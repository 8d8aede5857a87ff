"""Matrices in blocks in plain JAX: their values in float32, wholly or by rows. See cpu/src/blocks.h for the layout."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

GROUP, RECORD_GROUPS, LANES, OPERANDS = 32, 8, 16, 8
HALVES = 2 * LANES  # bytes of 16 float16
ALIGNMENT = 64  # of a panel


def decode(tiles: Array, format: str, outputs: int, inputs: int) -> Array:
    """The values of one part, float32 [O, I]."""
    panels = _panels(tiles, outputs)
    return _values(panels, format, inputs, None).reshape(-1, inputs)[:outputs]


def decode_rows(tiles: Array, format: str, outputs: int, inputs: int, ids: Array) -> Array:
    """Rows of one part, float32 [..., I]."""
    flat = ids.reshape(-1)
    panels = _panels(tiles, outputs)[flat // LANES]
    return _values(panels, format, inputs, flat % LANES).reshape(*ids.shape, inputs)


def block_bytes(format: str, outputs: int, inputs: int) -> int:
    """Bytes of a packed matrix."""
    whole, rest = divmod(-(-inputs // GROUP), RECORD_GROUPS)
    size = whole * _record_bytes(format, RECORD_GROUPS) + (_record_bytes(format, rest) if rest else 0)
    return -(-outputs // LANES) * -(-size // ALIGNMENT) * ALIGNMENT


def _panels(tiles: Array, outputs: int) -> Array:
    return tiles.reshape(-(-outputs // LANES), -1)


def _values(panels: Array, format: str, inputs: int, lane: Array | None) -> Array:
    """[P, 16, I], or [P, 1, I] of one lane of each panel."""
    groups = -(-inputs // GROUP)
    whole, rest = divmod(groups, RECORD_GROUPS)
    size = _record_bytes(format, RECORD_GROUPS)
    records = [panels[:, : whole * size].reshape(len(panels), whole, size)]
    if rest:
        records.append(panels[:, None, whole * size : whole * size + _record_bytes(format, rest)])
    decoded = [_record(record, format, lane) for record in records if record.shape[1]]
    return jnp.concatenate(decoded, axis=-1)[..., :inputs]


def _record(record: Array, format: str, lane: Array | None) -> Array:
    """The values [P, 16 or 1, R · n · 32] of records [P, R, bytes] of n groups."""
    P, R, size = record.shape
    bits, has_minimum, has_factor = _bits(format), _has_minimum(format), format.endswith("K")
    kinds, parts = 1 + has_minimum, 2 if format == "Q6_K" else 1
    value_bytes = _value_bytes(format)
    n = next(n for n in range(1, RECORD_GROUPS + 1) if _record_bytes(format, n) == size)

    def pick(x: Array) -> Array:
        """The lane of an array [P, …, 16, any]; all of them unless one is asked for."""
        if lane is None:
            return x
        return jnp.take_along_axis(x, lane.reshape(P, *[1] * (x.ndim - 1)), axis=-2)

    values = record[..., : n * value_bytes].reshape(P, R, n, -1, LANES, 4)
    values = pick(values)
    if bits == 8:
        integers = values
    else:
        pairs = values[..., :4, :, :]
        integers = jnp.concatenate([pairs & 15, pairs >> 4], axis=3)
    if bits == 5:
        shift = np.arange(OPERANDS, dtype=np.uint8)[:, None, None]
        integers |= ((values[..., 4:5, :, :] >> shift) & 1) << 4
    if bits == 6:
        shift = np.arange(0, OPERANDS, 2, dtype=np.uint8)[:, None, None]
        planes = [((values[..., 4 + i : 5 + i, :, :] >> shift) & 3) << 4 for i in range(2)]
        integers |= jnp.concatenate(planes, axis=3)
    levels = integers.astype(jnp.float32) - (0 if has_minimum else 2 ** (bits - 1))  # [P, R, n, 8, lanes, 4]

    scales = record[..., n * value_bytes :]
    if has_factor:
        factors = pick(_halves(scales[..., : kinds * HALVES].reshape(P, R, kinds, LANES, 2))[..., None])
        whole = pick(scales[..., kinds * HALVES :].reshape(P, R, n, kinds * parts, LANES, 1))
        if format == "Q6_K":
            whole = jax.lax.bitcast_convert_type(whole, jnp.int8)
        whole = whole.astype(jnp.float32)
        scale = whole[..., :parts, :, :] * factors[:, :, None, :1]
        minimum = whole[..., parts:, :, :] * factors[:, :, None, 1:]
    else:
        halves = pick(_halves(scales.reshape(P, R, n, kinds, LANES, 2))[..., None])
        scale, minimum = halves[..., :1, :, :], halves[..., 1:, :, :]
    result = jnp.repeat(scale, OPERANDS // parts, axis=3) * levels
    if has_minimum:
        result = result + minimum
    lanes = result.shape[4]
    return result.transpose(0, 4, 1, 2, 3, 5).reshape(P, lanes, R * n * GROUP)


def _halves(pairs: Array) -> Array:
    """Bytes [..., 2] as float16, in float32 [...]."""
    return jax.lax.bitcast_convert_type(pairs, jnp.float16).astype(jnp.float32)


def _bits(format: str) -> int:
    return int(format[1])


def _has_minimum(format: str) -> bool:
    return format in ("Q4_1", "Q5_1", "Q4_K", "Q5_K")


def _value_bytes(format: str) -> int:
    return 512 if _bits(format) == 8 else 256 + 64 * (_bits(format) - 4)


def _record_bytes(format: str, groups: int) -> int:
    kinds = 1 + _has_minimum(format)
    if format.endswith("K"):
        scales = kinds * HALVES + groups * (2 if format == "Q6_K" else kinds) * LANES
    else:
        scales = groups * kinds * HALVES
    return groups * _value_bytes(format) + scales

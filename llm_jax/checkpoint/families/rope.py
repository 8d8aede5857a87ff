"""Rotary positions in config.json: where their entries stand, and the kinds of scaling."""

import math

from llm_jax.checkpoint.families.parts import FULL, SLIDING
from llm_jax.checkpoint.family import Json, Section
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError


def rotary_entries(entries: Json) -> Json:
    """The rotary parameters of a config.json, from where its writer put them, with the priorities of transformers 5.

    Version 5 writes rope_parameters; earlier ones, rope_theta and rope_scaling, which wins where both are there. The
    context of pre-training may stand beside them, and then wins.

    Raises CheckpointError where rope_scaling wins and nothing says its rope_theta.
    """
    scaling, parameters = entries.get("rope_scaling"), entries.get("rope_parameters")
    rope: Json = dict(scaling or parameters or {})
    if scaling and parameters and rope.get("rope_theta") is None and entries.get("rope_theta") is None:
        raise CheckpointError(
            "config.json has rope_scaling without rope_theta, and rope_parameters, whose rope_theta does not hold "
            "beside it. Put rope_theta into rope_scaling, or the scaling into rope_parameters."
        )
    if rope.get("rope_theta") is None:
        rope["rope_theta"] = entries.get("rope_theta")
    if entries.get("original_max_position_embeddings") is not None:
        rope["original_max_position_embeddings"] = entries["original_max_position_embeddings"]
    return rope


def read_rope(rope: Json, theta: float, max_seq_len: int) -> Json:
    """rope_theta and rope_scaling from a dict of rotary parameters in config.json.

    "dynamic" scales what is beyond the model's context, by a base that grows with the text: nothing here.
    """
    theta = float(rope.get("rope_theta") or theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "dynamic", "mrope"):  # mrope: three positions a token, which are equal in a text
        return {"rope_theta": theta}
    original = int(rope.get("original_max_position_embeddings") or max_seq_len)
    if kind not in SCALINGS:
        raise CheckpointError(
            f"config.json asks for rotary positions of the type {kind!r}; default, dynamic, {', '.join(SCALINGS)} work."
        )
    return {"rope_theta": theta, "rope_scaling": SCALINGS[kind](rope, original, max_seq_len)}


def _linear(rope: Json, original: int, max_seq_len: int) -> RopeScaling:
    return RopeScaling(kind="linear", factor=float(rope["factor"]))


def _llama3(rope: Json, original: int, max_seq_len: int) -> RopeScaling:
    return RopeScaling(
        kind="llama3",
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_seq_len=original,
    )


def _yarn(rope: Json, original: int, max_seq_len: int) -> RopeScaling:
    return RopeScaling(
        kind="yarn",
        factor=float(rope.get("factor") or max_seq_len / original),
        original_max_seq_len=original,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        truncate=bool(rope.get("truncate", True)),
        attention_factor=_yarn_magnitude(rope),
    )


def _longrope(rope: Json, original: int, max_seq_len: int) -> RopeScaling:
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        magnitude = longrope_magnitude(rope.get("factor") or max_seq_len / original, original)
    short, long = (tuple(map(float, rope[name])) for name in ("short_factor", "long_factor"))
    return RopeScaling(
        kind="longrope",
        factors=short,
        long_factors=() if long == short else long,
        attention_factor=float(magnitude),
        original_max_seq_len=original,
    )


SCALINGS = {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope}


def longrope_magnitude(growth: float, original: int) -> float:
    """That of the paper, for a context that has grown by a factor."""
    return math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 else 1.0


def _yarn_magnitude(rope: Json) -> float | None:
    """From DeepSeek's two mscales, where config.json has them; None selects the formula of the paper."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if not (rope.get("mscale") and rope.get("mscale_all_dim")):
        return None
    growth = 0.1 * math.log(max(rope["factor"], 1.0))
    return (rope["mscale"] * growth + 1.0) / (rope["mscale_all_dim"] * growth + 1.0)


def write_rope(theta: float, scaling: RopeScaling | None) -> Json:
    """A dict of rotary parameters for config.json."""
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    rope: Json = {"rope_type": scaling.kind, "rope_theta": theta, "factor": scaling.factor}
    if scaling.kind == "llama3":
        rope |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        rope |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        rope |= {"attention_factor": scaling.magnitude}
        rope |= {} if scaling.truncate else {"truncate": False}
    if scaling.kind == "longrope":
        rope |= {"short_factor": list(scaling.factors), "attention_factor": scaling.magnitude}
        rope |= {"long_factor": list(scaling.long_factors or scaling.factors)}
    if scaling.kind != "linear":
        rope |= {"original_max_position_embeddings": scaling.original_max_seq_len}
    return rope


def older_rope(theta: float, scaling: Json | None) -> Json:
    """rope_theta and rope_scaling, from which transformers 4 reads what is in rope_parameters too."""
    if scaling is None or scaling["rope_type"] == "default":
        return {"rope_theta": theta}
    return {"rope_theta": theta, "rope_scaling": {name: scaling[name] for name in scaling if name != "rope_theta"}}


def rope_section(default_theta: float = 10000.0, *, fraction: float | None = None) -> Section:
    """Rotary parameters where transformers 5 and 4 each look for them.

    Args:
        fraction: the default for the share of a head that is rotated, where the family lets config.json say it.
    """

    def read(entries: Json) -> Json:
        rope = rotary_entries(entries)
        fields = read_rope(rope, default_theta, entries.get("max_position_embeddings", 2048))
        if fraction is not None:
            share = rope.get("partial_rotary_factor") or entries.get("partial_rotary_factor") or fraction
            fields["rope_fraction"] = float(share)
        return fields

    def write(config: ModelConfig) -> Json:
        rope = write_rope(config.rope_theta, config.rope_scaling)
        entries = older_rope(config.rope_theta, rope)
        if fraction is not None:
            rope["partial_rotary_factor"] = entries["partial_rotary_factor"] = config.rope_fraction
        return {"rope_parameters": rope} | entries

    return Section(read, write)


def two_ropes(theta: float, window_key: str | None = None, window_theta: float | None = None) -> Section:
    """Rotary parameters of their own for layers with a window, which are not scaled.

    Args:
        theta, window_theta: by default; the latter is unless given what full layers have.
        window_key: entry of files of transformers 4 for theta in layers with a window.
    """

    def read(entries: Json) -> Json:
        ropes = entries.get("rope_parameters") or {}
        full = (ropes.get(FULL) or {}) | (entries.get("rope_scaling") or {})
        context = entries.get("max_position_embeddings", 131072)
        fields = read_rope(full, entries.get("rope_theta") or theta, context)
        usual = window_theta or entries.get("rope_theta") or theta
        local = read_rope(ropes.get(SLIDING) or {}, entries.get(window_key or "") or usual, context)
        if "rope_scaling" in local:
            raise CheckpointError(
                "config.json scales the rotary positions of windowed layers, which this decoder does not compute."
            )
        return fields | {"window_rope_theta": local["rope_theta"]}

    def write(config: ModelConfig) -> Json:
        local = config.rope_theta if config.window_rope_theta is None else config.window_rope_theta
        full = write_rope(config.rope_theta, config.rope_scaling)
        entries: Json = {"rope_parameters": {FULL: full, SLIDING: write_rope(local, None)}}
        return entries | ({window_key: local} if window_key else {}) | older_rope(config.rope_theta, full)

    return Section(read, write)

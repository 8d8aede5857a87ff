"""The architecture of a model, as data. The settings of a training run are in `training.config`."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from llm_jax.errors import ConfigError

PositionKind = Literal["sinusoidal", "learned", "rotary", "alibi", "none"]
NormKind = Literal["layer_norm", "rms_norm"]
ActivationKind = Literal["gelu", "gelu_tanh", "relu", "silu", "relu2", "tanh", "sigmoid"]
QKNormKind = Literal["head", "width", "rotated_head"]
RouterKind = Literal["softmax", "sigmoid"]
Number = TypeVar("Number", int, float)
BaseDtype = Literal["float32", "bfloat16", "int8", "int4"]
ALL_LINEAR = "all-linear"
HEADS = ("lm_head", "embed_out")  # ends of names


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Scaling of rotary frequencies, to extend the context beyond that of pre-training.

    "linear" divides every frequency by `factor` (Chen et al. 2023, arXiv:2306.15595). "llama3" scales only
    wavelengths longer than the original context, with a ramp between the two frequency factors (Llama 3.1). "yarn"
    (Peng et al. 2023, arXiv:2309.00071) has its ramp between the pairs that rotate `beta_fast` and `beta_slow` times
    within the original context; `truncate` widens its ends to whole pairs. "longrope" (Ding et al. 2024,
    arXiv:2402.13753) divides each by its own factor: by `factors` in a model whose context is the original one, by
    `long_factors` where it is longer. The latter two also scale the rotated vectors, by `magnitude`.
    """

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    factors: tuple[float, ...] = ()  # longrope: one for each rotated pair
    long_factors: tuple[float, ...] = ()  # longrope: factors
    attention_factor: float | None = None  # yarn: 0.1 ln(factor) + 1, others: 1

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.kind == "yarn" and self.factor > 1.0 else 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture of a model. The defaults are those of DecoderModel; other families set other values.

    A field that is None is derived from others: the comment beside it says how, and a property has the value.

    Raises:
        ConfigError: a field is out of range, or contradicts another.

    >>> config = ModelConfig(hidden_size=64, num_heads=4)
    >>> config.kv_heads, config.head_size, config.ffn_size
    (4, 16, 256)
    """

    vocab_size: int = 50257
    hidden_size: int = 512
    num_layers: int = 2
    num_heads: int = 8
    num_kv_heads: int | None = None  # num_heads: plain multi-head attention
    head_dim: int | None = None  # hidden_size / num_heads
    intermediate_size: int | None = None  # 4 * hidden_size
    max_seq_len: int = 512

    positions: PositionKind = "sinusoidal"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_fraction: float = 1.0  # share of each head that is rotated
    rope_layers: tuple[bool, ...] | None = None  # which layers rotate: all
    embedding_scale: float | None = None  # sqrt(hidden_size)
    tie_embeddings: bool = False
    padding_idx: int | None = None  # this row of the embedding gets no gradient

    norm: NormKind = "layer_norm"
    norm_eps: float = 1e-5
    norm_first: bool = True  # False: post-norm, and then there is no final norm
    norm_offset: float = 0.0  # Gemma stores scale - 1
    norm_bias: bool = True  # of layer norms
    sandwich_norm: bool = False  # Gemma 2: a further norm after attention and after feed-forward
    input_norm: bool = True  # False, with sandwich_norm: those are the only norms of a layer (OLMo 2)
    parallel_residual: bool = False  # attention and feed-forward read the same input (GPT-J)
    shared_norm: bool = False  # with parallel_residual: one norm before both
    residual_scale: float = 1.0  # of what attention and feed-forward add
    qk_norm: QKNormKind | None = (
        None  # RMS norm of each query and key head, also after rotation, or of all as one vector
    )

    is_causal: bool = True
    window_size: int | None = None  # a query sees itself and the window_size - 1 tokens before it
    window_layers: tuple[bool, ...] | None = None  # which layers have the window: all
    window_rope_theta: float | None = None  # rope_theta; Gemma 3 has a smaller one in windowed layers
    attention_scale: float | None = None  # 1 / sqrt(head_dim)
    attention_softcap: float | None = None
    attention_sinks: bool = False  # a score for each head that joins the softmax and has no value (arXiv:2309.17453)
    logit_scale: float = 1.0
    logit_softcap: float | None = None

    activation: ActivationKind = "gelu"
    use_glu: bool = False  # act(fc1(x)) * gate_proj(x), then fc2
    use_moe: bool = False
    num_experts: int = 0
    top_k: int = 0  # experts per token
    moe_renormalize: bool = True  # the chosen experts' weights sum to one
    moe_layers: tuple[bool, ...] | None = None  # which layers have experts: all
    dense_size: int | None = None  # feed-forward size of the other layers: intermediate_size
    router: RouterKind = "softmax"  # sigmoid: chosen by scores plus a bias for each expert (arXiv:2408.15664)
    router_bias: bool = False
    expert_scale: float = 1.0  # of the chosen experts' weights
    # gpt-oss: (g + 1) · a · sigmoid(1.702 a), with a = fc1(x) at most this and g = gate_proj(x) within plus or minus it
    expert_clamp: float | None = None
    shared_expert_size: int | None = None  # of an expert that every token visits
    shared_expert_gate: bool = False  # its output times a sigmoid

    qkv_bias: bool = True
    out_bias: bool | None = None  # qkv_bias
    mlp_bias: bool = True
    lm_head_bias: bool = True

    dropout: float = 0.1
    embedding_dropout: float | None = None  # dropout
    attention_dropout: float | None = None  # dropout
    mlp_dropout: float | None = None  # dropout
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_seq_len"):
            require(getattr(self, name) >= 1, self, name, "at least 1")
        for name in (
            *("num_kv_heads", "head_dim", "intermediate_size", "window_size"),
            *("dense_size", "shared_expert_size"),
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, self, name, "at least 1, or unset")
        for name in ("dropout", "embedding_dropout", "attention_dropout", "mlp_dropout"):
            value = getattr(self, name)
            require(value is None or 0.0 <= value < 1.0, self, name, "at least 0 and below 1")
        for name, literal in (
            *(("positions", PositionKind), ("norm", NormKind), ("activation", ActivationKind)),
            *(("qk_norm", QKNormKind), ("router", RouterKind)),
        ):
            choices = get_args(literal)
            ok = getattr(self, name) in choices or (name == "qk_norm" and self.qk_norm is None)
            require(ok, self, name, "one of " + ", ".join(choices))
        require(
            self.input_norm or (self.sandwich_norm and self.norm_first), self, "input_norm", "true, without the others"
        )
        require(not self.parallel_residual or self.norm_first, self, "parallel_residual", "false where norm_first is")
        require(self.parallel_residual or not self.shared_norm, self, "shared_norm", "false without parallel_residual")
        if self.head_dim is None:
            allowed = f"a multiple of num_heads ({self.num_heads}), or head_dim set"
            require(self.hidden_size % self.num_heads == 0, self, "hidden_size", allowed)
        require(self.num_heads % self.kv_heads == 0, self, "num_kv_heads", f"a divisor of num_heads ({self.num_heads})")
        if self.positions == "rotary":
            require(0.0 < self.rope_fraction <= 1.0, self, "rope_fraction", "above 0 and at most 1")
            require(self.rotary_dim % 2 == 0, self, "head_dim", "even, because rotary positions rotate pairs")
            scaling, pairs = self.rope_scaling, self.rotary_dim // 2
            sizes = {pairs} if scaling is None or scaling.kind != "longrope" else {len(scaling.factors)}
            sizes |= {len(scaling.long_factors)} if scaling is not None and scaling.long_factors else set()
            require(sizes == {pairs}, self, "rope_scaling", f"with {pairs} factors, one for each rotated pair")
        if self.positions == "sinusoidal":
            require(self.hidden_size % 2 == 0, self, "hidden_size", "even, because sinusoidal positions use pairs")
        if self.use_moe:
            require(self.num_experts >= 1, self, "num_experts", "at least 1 when use_moe is true")
            require(1 <= self.top_k <= self.num_experts, self, "top_k", f"1 to num_experts ({self.num_experts})")
        for name in ("window_layers", "rope_layers", "moe_layers"):
            layers = getattr(self, name)
            fits = layers is None or len(layers) == self.num_layers
            require(fits, self, name, f"one entry for each of the {self.num_layers} layers")
        if self.padding_idx is not None:
            require(0 <= self.padding_idx < self.vocab_size, self, "padding_idx", f"0 to {self.vocab_size - 1}")

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def rotary_dim(self) -> int:
        return int(self.head_size * self.rope_fraction)

    @property
    def ffn_size(self) -> int:
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def dense_ffn_size(self) -> int:
        """The feed-forward size of layers without experts."""
        return self.dense_size or self.ffn_size

    @property
    def embedding_multiplier(self) -> float:
        return self.hidden_size**0.5 if self.embedding_scale is None else self.embedding_scale

    @property
    def attention_multiplier(self) -> float:
        return self.head_size**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def has_out_bias(self) -> bool:
        return self.qkv_bias if self.out_bias is None else self.out_bias

    def dropout_rate(self, specific: float | None) -> float:
        """The value of one of the specific dropout fields: `dropout` where it is None."""
        return self.dropout if specific is None else specific

    def window(self, layer: int) -> int | None:
        """The attention window of one layer in tokens, None for full attention."""
        if self.window_layers is not None and not self.window_layers[layer]:
            return None
        return self.window_size

    def rotates(self, layer: int) -> bool:
        """Whether a layer has rotary positions."""
        return self.positions == "rotary" and (self.rope_layers is None or self.rope_layers[layer])

    def has_experts(self, layer: int) -> bool:
        return self.use_moe and (self.moe_layers is None or self.moe_layers[layer])

    def to_dict(self) -> dict[str, Any]:
        """Values for config.json: the five sizes, and the fields that differ from their defaults."""
        sizes = {"vocab_size", "hidden_size", "num_layers", "num_heads", "max_seq_len"}
        values = dataclasses.asdict(self)
        return {
            f.name: values[f.name]
            for f in dataclasses.fields(self)
            if f.name in sizes or getattr(self, f.name) != f.default
        }


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank factors that are trained beside the linear maps of a frozen model (arXiv:2106.09685).

    >>> LoraConfig(rank=8, alpha=16).scale("model.layers.0.self_attn.q_proj")
    2.0
    """

    rank: int = 0  # 0: no adapter
    alpha: float = 16.0  # the change is scaled by alpha / rank
    dropout: float = 0.0  # of the factors' inputs
    # all-linear: every linear map but the head; a list: names, or ends of names (q_proj); other text: a regular
    # expression of whole names. Names are those of the model's family in transformers.
    targets: str | tuple[str, ...] = "all-linear"
    rank_pattern: dict[str, int] = field(default_factory=dict)  # regular expression of the end of a name -> its rank
    alpha_pattern: dict[str, float] = field(default_factory=dict)  # likewise its alpha
    rslora: bool = False  # scaled by alpha / sqrt(rank) (arXiv:2312.03732)
    dora: bool = False  # magnitude and direction of each row are learnt apart (arXiv:2402.09353)
    base_dtype: BaseDtype = "float32"  # of the frozen model's matrices in training (QLoRA, arXiv:2305.14314)

    def __post_init__(self) -> None:
        require(not self.dora or self.base_dtype == "float32", self, "dora", "false unless lora.base_dtype is float32")
        require(self.rank >= 0, self, "rank", "at least 1, or 0 for no adapter")
        require(self.alpha > 0, self, "alpha", "above 0")
        require(0.0 <= self.dropout < 1.0, self, "dropout", "at least 0 and below 1")
        require(all(rank >= 1 for rank in self.rank_pattern.values()), self, "rank_pattern", "ranks of at least 1")
        for pattern in (*self.rank_pattern, *self.alpha_pattern, *([self.targets] if self.matches_whole else [])):
            try:
                re.compile(str(pattern))
            except re.error as error:
                raise ConfigError(f"{pattern!r} is no regular expression: {error}.", "targets") from None

    @property
    def matches_whole(self) -> bool:
        """Whether `targets` is a regular expression."""
        return isinstance(self.targets, str) and self.targets != ALL_LINEAR

    def targets_module(self, name: str) -> bool:
        """Whether the linear map that files call by this name has factors."""
        if isinstance(self.targets, str):
            if self.matches_whole:
                return re.fullmatch(self.targets, name) is not None
            return name.split(".")[-1] not in HEADS
        return any(name == target or name.endswith(f".{target}") for target in self.targets)

    def rank_of(self, name: str) -> int:
        return _of_pattern(self.rank_pattern, name, self.rank)

    def scale(self, name: str) -> float:
        rank = self.rank_of(name)
        return _of_pattern(self.alpha_pattern, name, self.alpha) / (rank**0.5 if self.rslora else rank)


def _of_pattern(pattern: Mapping[str, Number], name: str, default: Number) -> Number:
    """The value of the first expression that an end of the name matches."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def require(ok: bool, config: object, name: str, allowed: str) -> None:
    """Raises a ConfigError with the field, its value and the allowed values, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} is {getattr(config, name)!r}; it must be {allowed}.", field=name)

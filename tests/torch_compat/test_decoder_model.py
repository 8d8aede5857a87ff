"""DecoderModel against the same architecture in plain torch: logits, gradients, caches, masks, errors."""

import copy
import io
import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm import DecoderModel
from llm_jax.checkpoint import load_model
from llm_jax.model import param_shapes
from tests.torch_compat.reference import reference_logits

SIZES: dict[str, Any] = {"vocab_size": 41, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_seq_len": 24}
SMALL: dict[str, Any] = {"num_layers": 1}  # where depth is not the point
SHAPES: dict[str, dict[str, Any]] = {
    "documented": {},
    "grouped, gated, RMS, learned, no biases": {
        "num_kv_heads": 2, "use_glu": True, "norm_type": nn.RMSNorm, "pos_encoding_learned": True, "qkv_bias": False,
        "mlp_bias": False, "lm_head_bias": False, "mlp_activation": "silu", "intermediate_size": 40,
    },
    "post-norm, multi-query, relu": {"norm_first": False, "num_kv_heads": 1, "mlp_activation": "relu"},
    "rotary, padding": {"use_rope": True, "rope_theta": 500.0, "padding_idx": 3, "norm_impl": "rms_norm"},
    "ALiBi, window": {"use_alibi": True, "window_size": 5, "mlp_activation": "tanh"},
    "not causal, window, epsilon": {"is_causal": False, "window_size": 4, "norm_eps": 1e-2},
    "experts": {"use_moe": True, "num_experts": 4, "top_k": 2, "use_glu": True},
}  # fmt: skip
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def make(shape: dict[str, Any], **more: Any) -> tuple[DecoderModel, dict[str, Any]]:
    """A model whose every parameter is random: no bias zero, no norm one."""
    arguments = SIZES | shape | more
    torch.manual_seed(0)
    model = DecoderModel(**arguments)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return model.eval(), arguments


def random_ids(*shape: int) -> Tensor:
    return torch.randint(0, 41, shape, generator=torch.Generator().manual_seed(1))


def state_of(model: DecoderModel) -> dict[str, Tensor]:
    """Parameters and buffers themselves, not copies of them."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@every_shape
def test_logits_equal_the_reference(shape: dict[str, Any]) -> None:
    model, arguments = make(shape)
    ids = random_ids(3, 24)  # the whole context
    with torch.no_grad():
        torch.testing.assert_close(model(ids), reference_logits(state_of(model), arguments, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shape", "checkpointing"),
    [(shape, False) for shape in SHAPES.values()] + [(SHAPES["documented"], True), (SHAPES["experts"], True)],
    ids=[*SHAPES, "documented, checkpointed", "experts, checkpointed"],
)
def test_gradients_equal_the_reference(shape: dict[str, Any], checkpointing: bool) -> None:
    model, arguments = make(shape, gradient_checkpointing=checkpointing)
    ids = random_ids(3, 12)
    ids[:, 4] = 3  # the padding id, where there is one
    target = random_ids(3, 12).flatten()

    def gradients(logits: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), target).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    ours = gradients(model(ids))
    expected = gradients(reference_logits(state_of(model), arguments, ids))
    assert set(ours) == set(expected) == {name for name, _ in model.named_parameters()}
    for name, gradient in expected.items():
        error = (ours[name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize(
    "shape", [SHAPES[name] for name in SHAPES if name.split(",")[0] in ("grouped", "rotary", "ALiBi")]
)
def test_token_by_token_with_a_cache_equals_one_pass(shape: dict[str, Any]) -> None:
    model, arguments = make(shape)
    ids = random_ids(2, 24)
    expected = reference_logits(state_of(model), arguments, ids).detach()
    with torch.no_grad():
        logits, past = model(ids[:, :5], use_cache=True)
        torch.testing.assert_close(logits, expected[:, :5], atol=1e-4, rtol=0)
        for t in range(5, 24):
            kv_heads = arguments.get("num_kv_heads") or 4
            assert [k.shape for k, _ in past] == [v.shape for _, v in past] == [(2, kv_heads, t, 8)] * 2
            logits, past = model(ids[:, t : t + 1], past_key_values=past, use_cache=True)
            torch.testing.assert_close(logits[:, 0], expected[:, t], atol=1e-4, rtol=0)
    uncached = model(ids[:, 23:], past_key_values=[(k[:, :, :23], v[:, :, :23]) for k, v in past])
    torch.testing.assert_close(uncached[:, 0], expected[:, 23], atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["TS", "BTS", "B1TS", "B11S"])
def test_masks_hide_what_is_true(form: str) -> None:
    model, arguments = make(SMALL)
    ids = random_ids(3, 9)
    hidden = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(2)) < 0.3
    hidden = hidden[:, :, :1] if form == "B11S" else hidden
    hidden = hidden & ~torch.eye(9, dtype=torch.bool)[None, None]  # a token always sees itself
    given = {"TS": hidden[0, 0], "BTS": hidden[:, 0], "B1TS": hidden, "B11S": hidden}[form]
    expected = reference_logits(state_of(model), arguments, ids, given[:, None] if form == "BTS" else given)
    torch.testing.assert_close(model(ids, attn_mask=given), expected, atol=1e-4, rtol=0)
    if form == "B1TS":
        with_cache, _ = model(ids, attn_mask=given, use_cache=True)
        torch.testing.assert_close(with_cache, expected, atol=1e-4, rtol=0)


def test_gradients_flow_through_a_cached_call() -> None:
    model, arguments = make(SMALL)
    ids = random_ids(2, 6)
    logits, past = model(ids, use_cache=True)
    logits.square().mean().backward()
    ours = model.lm_head.weight.grad
    model.zero_grad()
    reference_logits(state_of(model), arguments, ids).square().mean().backward()
    torch.testing.assert_close(ours, model.lm_head.weight.grad)
    assert not past[0][0].requires_grad


@every_shape
def test_the_names_are_the_documented_ones(shape: dict[str, Any]) -> None:
    model, _ = make(shape)
    specs = param_shapes(model.config)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {n: s.shape for n, s in specs.items()}
    sinusoidal = model.config.positions == "sinusoidal"
    assert [name for name, _ in model.named_buffers()] == ["embedding_layer.positional_encoding.pe"] * sinusoidal


def test_state_dict_travels_to_a_file_that_the_core_loads(tmp_path: Any) -> None:
    model, arguments = make(SHAPES["documented"])
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "model.json").write_text(json.dumps(arguments))
    loaded = load_model(tmp_path / "weights.pt").model
    for name, parameter in model.named_parameters():
        assert torch.equal(torch.from_dlpack(loaded.params[name]), parameter.detach())


def test_strict_loading_is_torchs_own() -> None:
    model, _ = make(SMALL)
    state = model.state_dict()
    state["stranger"] = state.pop("final_norm.weight")
    with pytest.raises(RuntimeError, match=r"Missing key.*final_norm\.weight(.|\n)*Unexpected key.*stranger"):
        model.load_state_dict(state)


def test_the_seed_of_torch_repeats_the_weights_and_other_seeds_do_not() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in DecoderModel(**SIZES).parameters()])

    assert torch.equal(weights(5), weights(5))
    assert not torch.equal(weights(5), weights(6))


def test_dropout_acts_in_train_mode_alone_and_repeats_with_the_seed() -> None:
    model, arguments = make(SMALL, embedding_dropout_p=0.5)
    ids = random_ids(2, 8)
    still = model(ids)
    torch.testing.assert_close(still, reference_logits(state_of(model), arguments, ids), atol=1e-4, rtol=0)
    model.train()

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(ids)

    assert torch.equal(run(1), run(1))
    assert not torch.allclose(run(1), run(2))
    assert not torch.allclose(run(1), still)
    model, _ = make(SMALL, embedding_dropout_p=0.0, attn_dropout_p=0.0, mlp_dropout_p=0.0)
    torch.testing.assert_close(model.train()(ids), still)


def test_a_plain_training_loop_overfits() -> None:
    torch.manual_seed(0)
    model = DecoderModel(**SIZES | SMALL, embedding_dropout_p=0.0, attn_dropout_p=0.0, mlp_dropout_p=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = random_ids(2, 13)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_frozen_parameters_get_no_gradient() -> None:
    model, _ = make(SMALL)
    model.requires_grad_(False)
    assert not model(random_ids(1, 4)).requires_grad
    model.lm_head.requires_grad_(True)
    model(random_ids(1, 4)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"lm_head.weight", "lm_head.bias"}


def test_a_weight_changed_between_forward_and_backward_is_noticed() -> None:
    model, _ = make(SMALL)
    loss = model(random_ids(1, 4)).sum()
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, arguments = make(SMALL)
    ids = random_ids(2, 8)
    expected = reference_logits(state_of(model), arguments, ids)
    logits = model.to(dtype)(ids)
    assert logits.dtype == dtype
    assert (logits.float() - expected).norm() / expected.norm() < 0.05
    logits.sum().backward()
    assert model.lm_head.weight.grad.dtype == dtype


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "torch.save"])
def test_copies_are_independent(copy_of: Any) -> None:
    model, _ = make(SMALL)
    ids = random_ids(1, 5)
    before = model(ids).detach()
    if copy_of == "torch.save":
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = copy_of(model)
    torch.testing.assert_close(twin(ids), before)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    torch.testing.assert_close(model(ids).detach(), before)
    assert not torch.allclose(twin(ids), before)


def test_a_norm_instance_is_copied_with_its_weights() -> None:
    norm = nn.LayerNorm(32, eps=0.1)
    nn.init.constant_(norm.weight, 0.7)
    model = DecoderModel(**SIZES, norm_type=norm)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 5
    assert len({m.weight.data_ptr() for m in (*norms, norm)}) == 6
    assert all(torch.equal(m.weight, norm.weight) for m in norms)
    assert model.config.norm_eps == 0.1


def test_gradient_checkpointing_is_a_switch() -> None:
    model, _ = make(SMALL)
    assert not model.gradient_checkpointing
    model.enable_gradient_checkpointing()
    assert model.gradient_checkpointing
    with pytest.raises(ValueError, match="disable_gradient_checkpointing"):
        model(random_ids(1, 3), use_cache=True)
    model.disable_gradient_checkpointing()
    model(random_ids(1, 3), use_cache=True)


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda m: m(random_ids(1, 25)), ValueError, "25 tokens are longer than max_seq_len, which is 24"),
        (lambda m: m(random_ids(1, 2), past_key_values=m(random_ids(1, 24), use_cache=True)[1]), ValueError, "26 tok"),
        (lambda m: m(torch.tensor([[41]])), IndexError, "outside 0 to 40"),
        (lambda m: m(torch.tensor([[-1]])), IndexError, "outside 0 to 40"),
        (lambda m: m(torch.zeros(1, 3)), ValueError, "ids \\[B, T\\] are expected"),
        (lambda m: m(torch.zeros(1, 0, dtype=torch.int64)), ValueError, "ids \\[B, T\\] are expected"),
        (lambda m: m(torch.tensor([1, 2])), ValueError, "ids \\[B, T\\] are expected"),
        (lambda m: m(random_ids(1, 3), attn_mask=torch.zeros(3, 3)), ValueError, "a bool mask"),
        (lambda m: m(random_ids(1, 3), attn_mask=torch.zeros(2, 2, dtype=torch.bool)), ValueError, "a bool mask"),
        (lambda m: m(random_ids(1, 3), attn_mask=torch.ones(1, 4, 3, 3) > 2), ValueError, "one for all heads"),
        (lambda m: m(random_ids(2, 3), attn_mask=torch.zeros(2, 3, dtype=torch.bool)), ValueError, "T = 3"),
        (
            lambda m: m(random_ids(2, 1), past_key_values=m(random_ids(1, 3), use_cache=True)[1]),
            ValueError,
            "each of 1",
        ),
        (lambda m: m.double()(random_ids(1, 3)), TypeError, "float64; the decoder computes in float32"),
        (lambda m: m.to("meta")(random_ids(1, 3)), RuntimeError, "meta device"),
        (lambda m: DecoderModel(**SIZES, dtype=torch.float64), ValueError, "float64"),
        (lambda m: DecoderModel(**SIZES, norm_type=nn.LayerNorm(31)), ValueError, "hidden_size is 32"),
        (lambda m: DecoderModel(**SIZES, norm_type=nn.BatchNorm1d), ValueError, "no known norm"),
        (lambda m: DecoderModel(**SIZES, norm_type=nn.LayerNorm(32, bias=False)), ValueError, "no bias"),
        (lambda m: DecoderModel(**SIZES, attn_impl="flash"), ValueError, "attn_impl is 'flash'"),
        (lambda m: DecoderModel(**SIZES, mlp_impl="moe"), ValueError, "mlp_impl is 'moe'"),
        (lambda m: DecoderModel(**SIZES | {"num_heads": 5}), ValueError, "multiple of num_heads"),
    ],
)
def test_what_cannot_work_says_why(call: Any, error: type[Exception], complaint: str) -> None:
    model, _ = make(SMALL)
    with pytest.raises(error, match=complaint):
        call(model)

"""DecoderModel against the same architecture in plain torch: logits, gradients, caches, masks."""

from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.torch_compat.models import SHAPES, SMALL, make, random_ids, state_of
from tests.torch_compat.reference import ACTIVATIONS, reference_logits


@pytest.mark.parametrize(
    ("shape", "checkpointing"),
    [(shape, False) for shape in SHAPES.values()] + [(SHAPES["documented"], True), (SHAPES["experts"] | SMALL, True)],
    ids=[*SHAPES, "documented, checkpointed", "experts, checkpointed"],
)
def test_logits_and_gradients_equal_the_reference(shape: dict[str, Any], checkpointing: bool) -> None:
    model, arguments = make(shape, gradient_checkpointing=checkpointing)
    ids = random_ids(3, 24)  # the whole context
    ids[:, 4] = 3  # the padding id, where there is one
    expected, logits = reference_logits(state_of(model), arguments, ids), model(ids)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    target = random_ids(3, 24).flatten()
    losses = [nn.functional.cross_entropy(each.flatten(0, 1), target) for each in (logits, expected)]
    assert_near(*(gradients_of(model, loss) for loss in losses))


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
            assert [x.shape for pair in past for x in pair] == [(2, kv_heads, t, 8)] * 2 * arguments["num_layers"]
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


@pytest.mark.parametrize(("mlp_activation", "use_glu"), [*zip(ACTIVATIONS, cycle([True, False]), strict=False)])
def test_activations_gated_and_not(mlp_activation: str, use_glu: bool) -> None:
    model, arguments = make(SMALL, mlp_activation=mlp_activation, use_glu=use_glu)
    ids = random_ids(2, 8)
    expected = reference_logits(state_of(model), arguments, ids)
    torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [SHAPES["rotary, padding"], SHAPES["ALiBi, window"]])
def test_gradients_flow_through_keys_and_values(shape: dict[str, Any]) -> None:
    """A text in two calls has the gradient that it has in one."""
    model, arguments = make(shape)
    ids = random_ids(2, 12)

    first, past = model(ids[:, :7], use_cache=True)
    second = model(ids[:, 7:], past_key_values=past)
    ours = gradients_of(model, torch.cat([first, second], dim=1).square().mean())
    expected = reference_logits(state_of(model), arguments, ids)
    assert_near(ours, gradients_of(model, expected.square().mean()))


def test_keys_and_values_can_be_learned_alone() -> None:
    """Prefix tuning: the model is frozen, what it is told has happened is not."""
    model, _ = make(SMALL)
    model.requires_grad_(False)
    prefix = [tuple(torch.randn(1, 4, 3, 8, requires_grad=True) for _ in "kv")]
    model(random_ids(1, 5), past_key_values=prefix).square().mean().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in prefix[0])


def gradients_of(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_near(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        error = (ours[name] - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert error < 1e-5, f"{name}: {error}"

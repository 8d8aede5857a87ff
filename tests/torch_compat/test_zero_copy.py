"""JAX computes on torch's own memory."""

import gc

import jax
import pytest
import torch
from torch import nn

from llm import DecoderModel
from llm_torch_compat.views import to_jax, to_torch

SIZES = {"vocab_size": 41, "hidden_size": 32, "num_layers": 1, "num_heads": 4, "max_seq_len": 24}
IDS = torch.arange(8)[None]


@pytest.fixture
def model() -> DecoderModel:
    torch.manual_seed(0)
    return DecoderModel(**SIZES).eval()


def test_every_weight_is_seen_where_torch_keeps_it(model: DecoderModel) -> None:
    views = model.as_jax().params
    for name, parameter in model.named_parameters():
        assert views[name].unsafe_buffer_pointer() == parameter.data_ptr(), name


def test_views_are_made_once(model: DecoderModel) -> None:
    first, second = model.as_jax().params, model.as_jax().params
    assert all(first[name] is second[name] for name in first)


def test_a_step_of_an_optimiser_shows_in_the_next_call(model: DecoderModel) -> None:
    before = model(IDS)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before.square().mean().backward()
    optimizer.step()
    after = model(IDS)
    assert not torch.allclose(before, after)
    assert torch.equal(after, twin_of(model)(IDS))


@pytest.mark.parametrize("change", ["in place", "data", "new parameter", "load", "assign", "to and back"])
def test_every_way_to_change_a_weight_is_seen(model: DecoderModel, change: str) -> None:
    before = model(IDS).detach()
    weight = torch.randn(41, 32)
    with torch.no_grad():
        if change == "in place":
            model.lm_head.weight.copy_(weight)
        elif change == "data":
            model.lm_head.weight.data = weight
        elif change == "new parameter":
            model.lm_head.weight = nn.Parameter(weight)
        elif change == "to and back":
            model.to(torch.bfloat16).to(torch.float32)
        else:
            model.load_state_dict(model.state_dict() | {"lm_head.weight": weight}, assign=change == "assign")
    gc.collect()
    after = model(IDS).detach()
    assert not torch.equal(before, after)
    assert torch.equal(after, twin_of(model)(IDS))


def test_parameters_that_jax_cannot_share_are_still_right(model: DecoderModel) -> None:
    flat = torch.randn(41 * 32 + 1)
    model.lm_head.weight = nn.Parameter(flat[1:].view(41, 32))  # four bytes off the alignment that JAX needs
    model(IDS)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    assert torch.equal(model(IDS), twin_of(model)(IDS))


def test_tensors_cross_over_and_back_in_place() -> None:
    tensor = torch.arange(64, dtype=torch.float32).reshape(4, 16)
    array = to_jax(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    doubled = jax.jit(lambda x: 2 * x)(array)
    back = to_torch(doubled)
    assert back.data_ptr() == doubled.unsafe_buffer_pointer()
    assert torch.equal(back, 2 * tensor)


def twin_of(model: DecoderModel) -> DecoderModel:
    """A new model with copies of the weights, which no cache has seen."""
    twin = DecoderModel(**SIZES).eval()
    twin.load_state_dict(model.state_dict())
    return twin

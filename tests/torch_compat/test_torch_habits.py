"""What people do with an nn.Module they can do with a DecoderModel, or are told at once why not."""

import copy
import io
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm import DecoderModel
from llm_jax.model import param_shapes
from llm_torch_compat.views import check_computable
from tests.torch_compat.models import SIZES, SMALL, every_shape, make, random_ids, state_of
from tests.torch_compat.reference import reference_logits


@every_shape
def test_the_names_are_the_documented_ones(shape: dict[str, Any]) -> None:
    model, _ = make(shape)
    specs = param_shapes(model.config)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {n: s.shape for n, s in specs.items()}
    sinusoidal = model.config.positions == "sinusoidal"
    assert [name for name, _ in model.named_buffers()] == ["embedding_layer.positional_encoding.pe"] * sinusoidal


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
        (lambda m: m(random_ids(1, 3).to("meta")), RuntimeError, "input_ids is on meta and the model on cpu"),
        (lambda m: DecoderModel(**SIZES, dtype=torch.float64), TypeError, "float64; the decoder computes in float32"),
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


def test_hooks_on_the_model_and_on_parameters_run() -> None:
    model, _ = make(SMALL)
    seen: list[str] = []
    model.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.register_forward_hook(lambda *_: seen.append("behind"))
    model.lm_head.weight.register_hook(lambda _: seen.append("gradient"))
    model.lm_head.bias.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
    model(random_ids(1, 4)).sum().backward()
    assert seen[:2] == ["before", "behind"]
    assert set(seen[2:]) == {"gradient", "accumulated"}


def test_a_hook_that_could_not_run_is_refused() -> None:
    model, _ = make(SMALL)
    handle = model.transformer_blocks[0].mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"transformer_blocks\.0\.mlp\.fc1 has a hook, which would never run"):
        model(random_ids(1, 4))
    handle.remove()
    model(random_ids(1, 4))


@pytest.mark.parametrize("change", ["replaced", "resized", "parametrised"])
def test_parts_that_were_changed_are_refused(change: str) -> None:
    model, _ = make(SMALL)
    if change == "replaced":
        model.lm_head = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 41))
    elif change == "resized":
        model.lm_head = nn.Linear(32, 50)
    else:
        nn.utils.parametrizations.weight_norm(model.lm_head)
    with pytest.raises(RuntimeError, match=r"A part was replaced, resized or parametrised \(lm_head\."):
        model(random_ids(1, 4))


def test_weights_that_are_tied_by_hand_are_one() -> None:
    model, arguments = make(SMALL)
    model.lm_head.weight = model.embedding_layer.token_embeddings.weight
    model(random_ids(2, 6)).square().mean().backward()
    gradient = model.lm_head.weight.grad.clone()
    model.zero_grad()
    weights = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    reference_logits(weights, arguments, random_ids(2, 6)).square().mean().backward()
    expected = model.lm_head.weight.grad
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_a_move_that_cannot_work_changes_nothing() -> None:
    model, _ = make(SMALL)
    expected = model(random_ids(1, 4))
    with pytest.raises(TypeError, match=r"the model would be torch\.float64; the decoder computes in float32"):
        model.to(torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.cpu().float()(random_ids(1, 4)), expected)


def test_a_device_that_jax_does_not_have_is_named() -> None:
    """As on a machine with a graphics card where JAX is installed for the CPU alone."""
    there = types.SimpleNamespace(dtype=torch.float32, is_meta=False, device=torch.device("xpu:0"))
    with pytest.raises(RuntimeError, match=r"the model would be on xpu:0, where JAX cannot compute.*Keep the model"):
        check_computable("the model", there)  # type: ignore[arg-type]  # no such tensor can be made here


def test_a_model_may_wait_on_the_meta_device() -> None:
    model, _ = make(SMALL)
    state = model.state_dict()
    empty = DecoderModel(**SIZES | SMALL, device="meta").eval()
    with pytest.raises(RuntimeError, match="meta"):
        empty(random_ids(1, 3))
    empty.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(empty(random_ids(1, 3)), model(random_ids(1, 3)))


def test_autocast_says_what_to_compute_in() -> None:
    model, _ = make(SMALL)
    expected = model(random_ids(2, 8))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(random_ids(2, 8))
    assert logits.dtype == torch.bfloat16
    assert 0 < (logits.float() - expected).norm() / expected.norm() < 0.05
    logits.float().sum().backward()
    assert model.lm_head.weight.grad.dtype == torch.float32


def test_compiled_and_functional_calls_and_inference_mode_give_the_same() -> None:
    model, _ = make(SMALL)
    expected = model(random_ids(1, 4)).detach()
    assert torch.equal(torch.compile(model, backend="eager")(random_ids(1, 4)), expected)
    with torch.inference_mode():
        assert torch.equal(model(random_ids(1, 4)), expected)
    zeros = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    assert not torch.func.functional_call(model, zeros, (random_ids(1, 4),)).any()
    assert torch.equal(model(random_ids(1, 4)), expected)


def test_distributed_data_parallel_finds_every_gradient(tmp_path: Path) -> None:
    model, _ = make(SMALL)
    model(random_ids(2, 6)).square().mean().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        nn.parallel.DistributedDataParallel(model)(random_ids(2, 6)).square().mean().backward()
    finally:
        dist.destroy_process_group()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_activations_are_torchs_to_keep() -> None:
    """It drops them after the backward pass, moves them elsewhere, or computes them anew."""
    model, _ = make(SMALL)
    model.enable_gradient_checkpointing()
    model.train()
    ids = random_ids(2, 8)

    def gradient(call: Callable[[], Tensor]) -> Tensor:
        model.zero_grad()
        torch.manual_seed(0)
        loss = call().square().mean()
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
        return model.lm_head.weight.grad.clone()

    expected = gradient(lambda: model(ids))
    with torch.autograd.graph.save_on_cpu():
        assert torch.equal(gradient(lambda: model(ids)), expected)
    assert torch.equal(gradient(lambda: checkpoint(model, ids, use_reentrant=False)), expected)

"""What is read off a prompt: log-probabilities of its tokens, and its embedding."""

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.errors import InferenceError, RequestError
from llm_jax.inference import ContextLengthExceeded, Engine, Request, SamplingParams, TokenEvent
from llm_jax.model import Model
from tests.compiled import forward, forward_hidden

LENGTHS = [1, 2, 64, 65, 256, 257, 300]


def prompt(length: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(length).integers(0, 61, length).tolist())


def complete(engine: Engine, ids: tuple[int, ...], **sampling: object) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    engine.submit(Request(prompt_ids=ids, sampling=SamplingParams(**sampling)), events.append)
    while engine.step():
        pass
    return events


def embed(engine: Engine, *texts: tuple[int, ...]) -> list[np.ndarray]:
    results: list[list] = [[] for _ in texts]
    for ids, mine in zip(texts, results, strict=True):
        engine.embed(ids, mine.append)
    while engine.step():
        pass
    return [vector for (vector,) in results]


def padded(ids: tuple[int, ...]) -> np.ndarray:
    """All in one shape, so that one program computes them; what stands behind a token changes nothing for it."""
    return np.array([(*ids, *(0,) * (max(LENGTHS) - len(ids)))], np.int32)


def exact_logprobs(model: Model, ids: tuple[int, ...]) -> np.ndarray:
    logits = np.asarray(forward(model.config, model.params, padded(ids)), np.float64)[0, : len(ids)]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("length", LENGTHS)
def test_every_token_of_a_prompt_has_its_log_probability(model: Model, length: int) -> None:
    """On both sides of every chunk, also where the prompt's blocks are cached."""
    engine = Engine(model, max_batch=3, prefix_tokens=640)
    ids, exact = prompt(length), exact_logprobs(model, prompt(length))
    for _ in range(2):
        first, *rest = complete(engine, ids, max_new_tokens=3, temperature=0.0, prompt_logprobs=4)
        assert [token.token for token in first.prompt] == list(ids[1:])
        for position, token in enumerate(first.prompt):
            assert token.logprob == pytest.approx(exact[position, ids[position + 1]], abs=1e-4)
            assert [value for _, value in token.top] == pytest.approx(np.sort(exact[position])[::-1][:4], abs=1e-4)
            assert [i for i, _ in token.top] == np.argsort(-exact[position], kind="stable")[:4].tolist()
        assert all(event.prompt == () for event in rest)
    assert engine.stats.prefix_hits == 0


def test_without_alternatives_there_are_none(model: Model) -> None:
    first, *_ = complete(Engine(model, max_batch=1), prompt(9), max_new_tokens=1, prompt_logprobs=0)
    assert len(first.prompt) == 8
    assert all(token.top == () for token in first.prompt)


@pytest.mark.parametrize("length", LENGTHS)
def test_an_embedding_is_the_mean_of_the_last_hidden_states(model: Model, length: int) -> None:
    """Beside others, which is the same as alone."""
    engine = Engine(model, max_batch=8, prefix_tokens=640)
    hidden, _ = forward_hidden(model.config, model.params, padded(prompt(length)))
    alone, *_ = embed(engine, prompt(length))
    in_company, *_ = embed(engine, prompt(length), *map(prompt, LENGTHS))
    assert alone == pytest.approx(np.asarray(hidden)[0, :length].mean(0), abs=1e-5)
    assert alone.dtype == np.float32
    assert in_company == pytest.approx(alone, abs=1e-6)
    assert (engine.stats.running, engine.stats.used_blocks) == (0, 0)


def test_a_text_may_fill_the_context_and_not_exceed_it(model: Model) -> None:
    engine = Engine(model, max_batch=2)
    assert np.isfinite(embed(engine, prompt(400))[0]).all()
    with pytest.raises(ContextLengthExceeded, match=r"401 tokens.*context of 400"):
        engine.embed(prompt(401), print)
    with pytest.raises(RequestError, match="no tokens"):
        engine.embed((), print)


def test_what_is_not_finite_fails(model: Model) -> None:
    params = model.params | {"final_norm.weight": model.params["final_norm.weight"].at[3].set(jnp.nan)}
    engine = Engine(Model(model.config, params), max_batch=2)
    assert isinstance(embed(engine, prompt(9))[0], InferenceError)
    (event,) = complete(engine, prompt(9), prompt_logprobs=0)
    assert isinstance(event, InferenceError)
    assert engine.stats.used_blocks == 0


def test_no_stop_id_is_sampled_before_the_least_number_of_tokens(model: Model) -> None:
    """And the draws of other tokens are those of a model that cannot say it."""
    engine = Engine(model, max_batch=2)
    stop = tuple(range(0, 61, 2))
    events = complete(engine, prompt(5), max_new_tokens=30, min_new_tokens=12, stop_ids=stop, seed=1)
    assert all(event.token not in stop for event in events[:12])
    assert events[-1].finish == "stop"
    banned = complete(engine, prompt(5), max_new_tokens=12, logit_bias=dict.fromkeys(stop, -100.0), seed=1)
    assert [event.token for event in events[:12]] == [event.token for event in banned]


def test_a_grammar_that_allows_a_stop_id_alone_ends_earlier(model: Model) -> None:
    from llm_jax.inference import AllowedTokens

    sampling = SamplingParams(max_new_tokens=9, min_new_tokens=5, stop_ids=(3,))
    constraint = AllowedTokens(lambda generated: np.arange(61) == (3 if len(generated) == 2 else 7))
    events: list[TokenEvent] = []
    engine = Engine(model, max_batch=2)
    engine.submit(Request(prompt_ids=(1, 2), sampling=sampling, constraint=constraint), events.append)
    while engine.step():
        pass
    assert [event.token for event in events] == [7, 7, 3]

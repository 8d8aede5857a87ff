"""The engine: the same tokens whatever runs beside a request, and no slot ever lost."""

import itertools
import queue
from dataclasses import replace

import jax
import numpy as np
import pytest

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError, RequestError
from llm_jax.inference import AllowedTokens, Engine, Request, SamplingParams, TokenEvent
from llm_jax.inference.engine import planner
from llm_jax.kernels import WeightDtype
from llm_jax.model import Model
from tests.compiled import forward

VARIETY = [
    {"temperature": 0.0},
    {"temperature": 0.9, "top_p": 0.8},
    {"temperature": 1.2, "top_k": 7, "frequency_penalty": 0.5},
    {"temperature": 0.7, "min_p": 0.1, "repetition_penalty": 1.3},
    {"temperature": 1.0, "logit_bias": {3: 4.0}, "presence_penalty": -1.0},
]


def request(seed: int, prompt_length: int, new: int, **sampling: object) -> Request:
    prompt = np.random.default_rng(seed).integers(0, 61, prompt_length)
    return Request(
        prompt_ids=tuple(prompt.tolist()), sampling=SamplingParams(max_new_tokens=new, seed=seed, **sampling)
    )


def finish_all(engine: Engine, requests: list[Request]) -> list[list[TokenEvent]]:
    events: list[list[TokenEvent]] = [[] for _ in requests]
    for mine, r in zip(events, requests, strict=True):
        engine.submit(r, mine.append)
    while engine.step():
        pass
    return events


def tokens(events: list[TokenEvent]) -> list[int]:
    return [event.token for event in events]


KV_BLOCK = 20_000  # bytes of KV cache that hold one block of the model, and not two


def uncached_greedy(model: Model, prompt: tuple[int, ...], new: int) -> list[int]:
    ids = list(prompt)
    width = len(prompt) + new
    for _ in range(new):
        padded = np.zeros((1, width), np.int32)
        padded[0, : len(ids)] = ids
        logits = np.asarray(forward(model.config, model.params, padded))
        ids.append(int(logits[0, len(ids) - 1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("prompt_length", [1, 15, 16, 17, 127, 255, 256, 257, 300])
def test_greedy_equals_a_plain_loop_over_the_uncached_model(model: Model, prompt_length: int) -> None:
    """Lengths on both sides of every chunk and context bucket."""
    r = request(prompt_length, prompt_length, 12, temperature=0.0)
    (events,) = finish_all(Engine(model, max_batch=3), [r])
    assert tokens(events) == uncached_greedy(model, r.prompt_ids, 12)
    assert [event.finish for event in events] == [None] * 11 + ["length"]


def test_every_slot_of_a_batch_equals_that_request_alone(model: Model) -> None:
    lengths = [1, 300, 20, 130, 7, 64, 256, 2]
    requests = [request(i, n, 20, **VARIETY[i % len(VARIETY)]) for i, n in enumerate(lengths)]
    together = finish_all(Engine(model, max_batch=3), requests)
    for r, events in zip(requests, together, strict=True):
        assert tokens(events) == tokens(finish_all(Engine(model, max_batch=3), [r])[0])


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.9, "seed": 3}])
def test_tokens_that_a_stream_alone_decodes_in_one_call_are_those_of_single_steps(
    model: Model, sampling: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "CALL", 1e9)  # however slow the machine
    several, single = Engine(model, max_batch=3, speculate=False), Engine(model, max_batch=3, use_cache=False)
    settings = SamplingParams(max_new_tokens=70, logprobs=2, **sampling)
    whole = finish_all(single, [Request(prompt_ids=(7, 8), sampling=settings)])[0]
    first_seen = [at for at in range(70) if whole[at].token not in tokens(whole[:at])]
    stops = [at for at in first_seen if at > 8][-4:]
    for length in (70, 1, 2, 3, 4, 5, 6, 7, 8, *stops):
        stop = (whole[length].token,) if length in stops else ()
        limit = 70 if stop else length
        r = Request(prompt_ids=(7, 8), sampling=replace(settings, max_new_tokens=limit, stop_ids=stop))
        [heard], steps = [[]], 1
        several.submit(r, heard.append)
        while several.step():
            steps += 1
        expected = whole[: length + bool(stop)]
        assert tokens(heard) == tokens(expected)
        assert heard[-1].finish == ("stop" if stop else "length")
        for mine, its in zip(heard, expected, strict=True):
            assert mine.logprob == pytest.approx(its.logprob, abs=1e-5)
            assert dict(mine.top_logprobs) == pytest.approx(dict(its.top_logprobs), abs=1e-5)
        assert steps < 30  # and not 70


def test_without_the_cache_the_tokens_are_the_same(model: Model) -> None:
    requests = [request(i, n, 10, **VARIETY[i % len(VARIETY)]) for i, n in enumerate([5, 260, 40, 17])]
    cached = finish_all(Engine(model, max_batch=3), requests)
    uncached = finish_all(Engine(model, max_batch=3, use_cache=False), requests)
    assert [tokens(e) for e in cached] == [tokens(e) for e in uncached]


def test_a_model_that_is_not_causal_is_computed_anew_for_each_token(uncausal: Model) -> None:
    r = request(0, 20, 4, temperature=0.0)
    (events,) = finish_all(Engine(uncausal), [r])
    ids = list(r.prompt_ids)
    for _ in range(4):
        logits = forward(uncausal.config, uncausal.params, np.array([ids], np.int32))
        ids.append(int(np.asarray(logits)[0, -1].argmax()))
    assert tokens(events) == ids[20:]


def test_it_stops_at_a_stop_id_and_says_so(model: Model) -> None:
    r = request(1, 10, 30, temperature=0.0)
    plain = tokens(finish_all(Engine(model, max_batch=3), [r])[0])
    stop = plain[4]
    stopped = replace(r, sampling=replace(r.sampling, stop_ids=(stop,)))
    (events,) = finish_all(Engine(model, max_batch=3), [stopped])
    end = plain.index(stop)
    assert tokens(events) == plain[: end + 1]
    assert [event.finish for event in events] == [None] * end + ["stop"]


def test_a_request_may_fill_the_whole_context(model: Model) -> None:
    (events,) = finish_all(Engine(model, max_batch=3), [request(0, 380, 20, temperature=0.0)])
    assert len(events) == 20


def test_the_mask_sees_what_was_generated_and_binds(model: Model) -> None:
    seen: list[list[int]] = []

    def only_counting_up(generated: list[int]) -> np.ndarray:
        seen.append(list(generated))
        allowed = np.zeros(61, bool)
        allowed[len(generated)] = True
        return allowed

    r = replace(request(0, 5, 4), constraint=AllowedTokens(only_counting_up))
    (events, other) = finish_all(Engine(model, max_batch=3), [r, request(1, 5, 4)])
    assert tokens(events) == [0, 1, 2, 3]
    assert seen == [[], [0], [0, 1], [0, 1, 2]]
    assert tokens(other) == tokens(finish_all(Engine(model, max_batch=3), [request(1, 5, 4)])[0])


def test_logprobs_come_with_the_tokens_that_want_them(model: Model) -> None:
    r = request(3, 9, 3, temperature=0.0, logprobs=2)
    (events, silent) = finish_all(Engine(model, max_batch=3), [r, request(4, 9, 3)])
    logits = forward(model.config, model.params, np.array([r.prompt_ids], np.int32))
    exact = np.asarray(jax.nn.log_softmax(np.asarray(logits)[0, -1]))
    assert events[0].logprob == pytest.approx(exact[events[0].token], abs=1e-4)
    assert [i for i, _ in events[0].top_logprobs] == np.argsort(-exact)[:2].tolist()
    assert all(event.logprob is None and event.top_logprobs == () for event in silent)


def test_cancelling_frees_the_slot_and_silences_the_request(model: Model) -> None:
    engine = Engine(model, max_batch=1)
    first: list[TokenEvent] = []
    second: list[TokenEvent] = []
    request_id = engine.submit(request(0, 5, 50), first.append)
    engine.submit(request(1, 5, 3), second.append)
    for _ in range(4):
        engine.step()
    assert (engine.stats.running, engine.stats.waiting) == (1, 1)
    count = len(first)
    assert count > 0
    engine.cancel(request_id)
    while engine.step():
        pass
    assert len(first) == count
    assert len(second) == 3
    assert (engine.stats.running, engine.stats.waiting, engine.stats.used_blocks) == (0, 0, 0)


def test_a_failing_grammar_ends_its_own_request_alone(model: Model) -> None:
    engine = Engine(model, max_batch=3)

    def broken(generated: list[int]) -> np.ndarray | None:
        if len(generated) == 2:
            raise RuntimeError("grammar failed")
        return None

    heard: list[object] = []
    engine.submit(replace(request(0, 5, 5), constraint=AllowedTokens(broken)), heard.append)
    (events,) = finish_all(engine, [request(1, 5, 5)])
    assert [str(x) for x in heard[2:]] == ["grammar failed"]
    assert tokens(events) == tokens(finish_all(Engine(model, max_batch=3), [request(1, 5, 5)])[0])


def test_a_failing_step_tells_its_requests_and_the_engine_goes_on(model: Model) -> None:
    """A mask that is too long breaks the step that it is sent with."""
    engine = Engine(model, max_batch=3, prefix_tokens=128)
    heard: list[object] = []
    engine.submit(
        replace(request(0, 70, 5), constraint=AllowedTokens(lambda generated: np.ones(99, bool))), heard.append
    )
    while engine.step():
        pass
    assert len(heard) == 1
    assert isinstance(heard[0], Exception)
    stats = engine.stats
    assert (stats.running, stats.used_blocks, stats.cached_blocks) == (0, 0, 0)
    (events,) = finish_all(engine, [request(1, 5, 5)])
    assert tokens(events) == tokens(finish_all(Engine(model, max_batch=3), [request(1, 5, 5)])[0])


def test_an_engine_whose_thread_ends_tells_every_request_and_takes_no_more(model: Model) -> None:
    """A listener that fails, also when it is told of a failure, leaves the engine without a way to go on."""
    engine = Engine(model, max_batch=1)

    def broken(event: object) -> None:
        raise RuntimeError("listener failed")

    heard: queue.Queue[object] = queue.Queue()
    engine.submit(request(0, 5, 5), broken)
    engine.submit(request(1, 5, 5), heard.put)
    engine.submit(request(2, 5, 5), heard.put)
    engine.start()
    assert [str(heard.get(timeout=60)) for _ in range(2)] == ["listener failed"] * 2
    with pytest.raises(RuntimeError, match="listener failed"):
        engine.submit(request(3, 5, 5), heard.put)
    assert engine.stats.is_dead
    engine.close()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Request(prompt_ids=(), sampling=SamplingParams()), "no tokens"),
        (Request(prompt_ids=(1, 61), sampling=SamplingParams()), "token id 61; ids of this model are 0 to 60"),
        (request(0, 399, 2), "399 tokens and max_new_tokens is 2; together they must fit the context of 400"),
        (request(0, 3, 2, logit_bias={99: 1.0}), "logit_bias holds token id 99"),
    ],
)
def test_a_request_that_cannot_run_is_refused_at_once(model: Model, bad: Request, words: str) -> None:
    engine = Engine(model, max_batch=3)
    with pytest.raises(RequestError, match=words):
        engine.submit(bad, print)
    assert engine.stats.waiting == 0


def test_a_cache_that_exceeds_free_memory_is_refused_with_what_to_do(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"of 400 tokens needs .* GB.*takes 64 tokens; lower the context"):
        Engine(model, max_len=400, kv_memory=KV_BLOCK)


def test_the_thread_serves_many_submitters(model: Model) -> None:
    import threading

    engine = Engine(model, max_batch=3)
    engine.start()
    try:
        requests = [request(i, 3 + i, 6, **VARIETY[i % len(VARIETY)]) for i in range(6)]
        heard: list[list[TokenEvent]] = [[] for _ in requests]
        done = [threading.Event() for _ in requests]

        def listen(i: int, event: TokenEvent) -> None:
            heard[i].append(event)
            if event.finish:
                done[i].set()

        for i, r in enumerate(requests):
            engine.submit(r, lambda event, i=i: listen(i, event))
        assert all(event.wait(120) for event in done)
    finally:
        engine.close()
    alone = [finish_all(Engine(model, max_batch=3), [r])[0] for r in requests]
    assert [tokens(e) for e in heard] == [tokens(e) for e in alone]


def test_every_other_step_is_for_the_prompts_of_a_tenant_with_fewer_requests(model: Model) -> None:
    engine = Engine(model, max_batch=3)
    greedy = [replace(request(seed, 5, 200), tenant="greedy") for seed in (0, 1)]
    modest = replace(request(2, 350, 3), tenant="modest")
    for each in greedy:
        engine.submit(each, lambda event: None)
    engine.step()
    engine.step()
    events: list[TokenEvent] = []
    engine.submit(modest, events.append)
    advances = []
    [*streams] = engine._scheduler.running
    while not events:
        before = [stream.sampled for stream in streams]
        engine.step()
        advances.append([stream.sampled - was for stream, was in zip(streams, before, strict=True)])
    assert advances[:2] == [[0, 0], [1, 1]]  # the prompt alone, or its beginning; then the streams again
    assert [0, 0] not in [now for before, now in itertools.pairwise(advances) if before == [0, 0]]
    while engine.step():
        pass
    assert tokens(events) == tokens(finish_all(Engine(model, max_batch=3), [modest])[0])


def test_streams_take_turns_where_a_step_of_all_would_be_long(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "SHORT", 0.0)
    monkeypatch.setattr(planner, "WORTHWHILE", 0.0)
    requests = [replace(request(seed, 5, 12), tenant=tenant) for seed, tenant in enumerate(("a", "b", "b"))]
    engine = Engine(model, max_batch=3)
    for _ in range(2):  # the first steps compile: their times are no measure
        finish_all(engine, requests)
    events: list[list[TokenEvent]] = [[] for _ in requests]
    for each, mine in zip(requests, events, strict=True):
        engine.submit(each, mine.append)
    order: list[int] = []  # whose tokens came, once all had one
    before = [0, 0, 0]
    while engine.step():
        made = [len(mine) for mine in events]
        assert not all(before) or sum(made) - sum(before) < 3
        order += [index for index in range(3) for _ in range(made[index] - before[index]) if all(before)]
        before = made
    assert all(set(order[at : at + 4]) == {0, 1, 2} for at in range(1, 12))
    for each, mine in zip(requests, events, strict=True):
        assert tokens(mine) == tokens(finish_all(Engine(model, max_batch=3), [each])[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_no_program_widens_a_whole_table(dtype: WeightDtype) -> None:
    """XLA would convert it to float32 ahead of a loop over steps, which takes most of a call's time."""
    config = ModelConfig(vocab_size=30_000, hidden_size=256, num_layers=1, num_heads=2, max_seq_len=64)
    engine = Engine(Model.init(config), max_batch=1, dtype=dtype)
    engine.warmup()
    programs = engine._runner._programs.ready
    sizes = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    assert len(sizes) > 3
    assert max(sizes.values()) < 30_000 * 256 * 4, sizes


def test_after_warmup_nothing_is_compiled(model: Model) -> None:
    """Every setting, grammars, shared prefixes, drafts, a full context, a full batch, a cancelled request."""
    engine = Engine(model, max_batch=5, prefix_tokens=256)
    engine.warmup()
    lengths = [1, 16, 17, 100, 129, 256, 300, 370, 300, 5]
    requests = [request(i, n, 30, **VARIETY[i % 5], logprobs=i % 3 or None) for i, n in enumerate(lengths)]
    requests += [
        replace(requests[3], constraint=AllowedTokens(lambda generated: np.arange(61) > 30)),
        replace(requests[6], salt="other"),
    ]
    requests.append(replace(requests[0], prompt_ids=(5, 9, 2, 33, 7) * 20))
    events: list[TokenEvent] = []
    request_ids = [engine.submit(r, events.append) for r in requests]
    for _ in range(20):
        engine.step()
    engine.cancel(request_ids[7])
    while engine.step():
        pass
    finish_all(engine, requests[:1])  # alone, and in the smallest batch
    finish_all(engine, [request(0, 390, 10, temperature=0.0), requests[-1]])
    stats = engine.stats
    assert stats.prefix_hits > 0
    assert stats.drafted > 0
    assert stats.compilations == 0


def test_while_programs_are_being_made_requests_do_with_those_that_are_there(model: Model) -> None:
    """No step compiles, from the first request on, and the tokens are the same."""
    odd = replace(model.config, vocab_size=59)  # a model whose programs no other test has made
    model = Model.init(odd, seed=3)
    engine = Engine(model, max_batch=5, max_len=397)
    engine.warmup(complete=False)
    requests = [request(i, n, 30, **VARIETY[i % 5]) for i, n in enumerate([1, 16, 100, 300])]
    requests = [replace(r, prompt_ids=tuple(t % 59 for t in r.prompt_ids)) for r in requests]
    events = finish_all(engine, requests)
    assert engine.stats.compilations == 0
    engine.close()
    assert [tokens(e) for e in events] == [tokens(e) for e in finish_all(Engine(model, max_batch=5), requests)]


def test_every_compilation_that_a_request_waits_for_is_counted(model: Model) -> None:
    engine = Engine(model, max_len=398)  # a length of no other test, whose programs are on disk
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        finish_all(engine, [request(0, 5, 2)])
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    counted = engine.stats.compilations
    assert counted > 2  # a prompt, a token, and the sampler
    jax.jit(lambda x: x * counted + 1)(np.ones(7))
    finish_all(engine, [request(0, 5, 2)])
    assert engine.stats.compilations == counted


def test_a_shared_prefix_is_computed_once_and_changes_nothing(model: Model) -> None:
    prefix = tuple(np.random.default_rng(5).integers(0, 61, 200).tolist())
    engine, plain = Engine(model, max_batch=3, prefix_tokens=640), Engine(model, max_batch=3)
    for i, ending in enumerate([(1, 2, 3), (4, 5), (1, 2, 3), ()]):
        r = Request(prompt_ids=prefix + ending, sampling=SamplingParams(max_new_tokens=8, seed=i, temperature=0.8))
        assert tokens(finish_all(engine, [r])[0]) == tokens(finish_all(plain, [r])[0])
    # Three whole blocks of 64; the first request found nothing.
    assert engine.stats.prefix_hits == 3 * 192
    assert engine.stats.prefix_queries == 203 + 202 + 203 + 200


def test_prefixes_are_not_shared_between_salts_nor_behind_other_text(model: Model) -> None:
    engine = Engine(model, max_batch=3, prefix_tokens=640)
    prompt = tuple(np.random.default_rng(6).integers(0, 61, 130).tolist())
    sampling = SamplingParams(max_new_tokens=2, temperature=0.0)
    finish_all(engine, [Request(prompt_ids=prompt, sampling=sampling, salt="a")])
    finish_all(engine, [Request(prompt_ids=prompt, sampling=sampling, salt="b")])
    finish_all(engine, [Request(prompt_ids=(7, *prompt[1:]), sampling=sampling, salt="a")])
    assert engine.stats.prefix_hits == 0
    finish_all(engine, [Request(prompt_ids=prompt, sampling=sampling, salt="a")])
    assert engine.stats.prefix_hits == 128


def test_a_full_prefix_cache_replaces_the_oldest_and_stays_right(model: Model) -> None:
    engine, plain = Engine(model, max_batch=3, prefix_tokens=128), Engine(model, max_batch=3)
    for i in [0, 1, 2, 1, 0, 2, 2]:
        r = request(i, 140, 4, temperature=0.0)
        assert tokens(finish_all(engine, [r])[0]) == tokens(finish_all(plain, [r])[0])
    assert 0 < engine.stats.prefix_hits < engine.stats.prefix_queries


def test_layers_with_a_window_forget_and_change_nothing(model: Model) -> None:
    """Behind shared prefixes and drafts too, once the ring of 384 positions has gone round."""
    config = replace(model.config, max_seq_len=1000, window_size=40, window_layers=(True, False))
    windowed = replace(model, config=config)
    engine = Engine(windowed, max_batch=2, prefix_tokens=1024)
    pattern = tuple(np.random.default_rng(8).integers(0, 61, 30).tolist())
    for repeats, ending in ((25, (1,)), (25, (2, 3)), (1, ())):
        r = Request(prompt_ids=pattern * repeats + ending, sampling=SamplingParams(max_new_tokens=6, temperature=0.0))
        assert tokens(finish_all(engine, [r])[0]) == uncached_greedy(windowed, r.prompt_ids, 6)
    assert engine.stats.prefix_hits == 704


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 0.3, "repetition_penalty": 0.8}])
def test_speculation_changes_the_passes_and_not_the_tokens(model: Model, sampling: dict) -> None:
    """A prompt that repeats, and a bias towards a few tokens so that the text does too."""
    period = (5, 9, 2, 33, 7)
    bias = dict.fromkeys(period, 30.0)
    settings = SamplingParams(max_new_tokens=60, seed=1, logit_bias=bias, **sampling)
    r = Request(prompt_ids=period * 8, sampling=settings)
    made, spared = {}, {}
    for speculate in (False, True):
        engine, events = Engine(model, max_batch=3, speculate=speculate), []
        engine.submit(r, events.append)
        while engine.step():
            pass
        made[speculate], spared[speculate] = tokens(events), engine.stats.accepted
    assert made[True] == made[False]
    assert spared[True] > spared[False] == 0


def test_slots_are_compacted_when_others_leave(model: Model) -> None:
    """The last of four goes on alone in the first slot, with the same tokens."""
    requests = [request(i, 10 + i, 3 if i < 3 else 40, **VARIETY[i]) for i in range(4)]
    together = finish_all(Engine(model, max_batch=4), requests)
    assert tokens(together[3]) == tokens(finish_all(Engine(model, max_batch=3), [requests[3]])[0])


def test_a_context_shorter_than_any_chunk(model: Model) -> None:
    engine = Engine(model, max_batch=2, max_len=11)
    engine.warmup()
    r = request(0, 8, 3, temperature=0.0)
    assert tokens(finish_all(engine, [r])[0]) == uncached_greedy(model, r.prompt_ids, 3)

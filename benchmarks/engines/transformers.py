"""transformers on torch, through its own `generate` with a growing cache."""

import time
from typing import Any, ClassVar

from benchmarks.engines.interface import THREADS, Decoding, Unavailable, prompts
from benchmarks.weights import Weights
from llm_jax.model import ModelDtype


class Transformers:
    name: ClassVar[str] = "transformers"
    note = ""

    def __init__(self, weights: Weights, dtype: ModelDtype, *, max_batch: int, max_len: int) -> None:
        if dtype == "int8":
            raise Unavailable("has no int8 of its own on a CPU")
        try:
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils import logging
        except ImportError:
            raise Unavailable("not installed; pip install 'llm[torch,hf]'") from None
        logging.disable_progress_bar()
        torch.set_num_threads(THREADS)
        self._torch = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(weights.directory(), dtype=getattr(torch, dtype)).eval()
        self._vocab_size = weights.config.vocab_size

    def prefill(self, tokens: int) -> float:
        ids = self._torch.tensor(prompts(1, tokens, self._vocab_size))
        with self._torch.inference_mode():
            start = time.perf_counter()
            self._model(ids, logits_to_keep=1).logits.argmax(-1)
            return time.perf_counter() - start

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        from transformers import DynamicCache

        torch = self._torch
        ids = torch.tensor(prompts(batch, context, self._vocab_size))
        cache = DynamicCache(config=self._model.config)
        with torch.inference_mode():
            self._model(ids[:1, :-1], past_key_values=cache, logits_to_keep=1)
            cache.batch_repeat_interleave(batch)
            clock: list[float] = []
            ids = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                do_sample=False,
                max_new_tokens=1 + steps,
                stopping_criteria=[_Clock(torch, clock)],
            )
        return Decoding(batch * steps / (clock[-1] - clock[0]), ids[:, context:].tolist())


class _Clock:
    """A stopping criterion that never stops, and records when each token arrived."""

    def __init__(self, torch: Any, times: list[float]) -> None:
        self._torch, self._times = torch, times

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        self._times.append(time.perf_counter())
        return self._torch.zeros(len(ids), dtype=bool)

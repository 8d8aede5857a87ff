"""A conversation: each answer continues all messages before it."""

from collections.abc import Generator, Sequence

from llm_jax import tokenizers  # as a module: its chat templates are imported when used, and need jinja2
from llm_jax.errors import LLMError
from llm_jax.inference.engine import ContextLengthExceeded, Engine, Request, SamplingParams
from llm_jax.inference.text.generate import cache_length, run_requests
from llm_jax.inference.text.stream import TextPiece, prepare_request
from llm_jax.model import Model, ModelDtype


class Conversation:
    """Messages that grow turn by turn. Beyond the context the oldest turns are dropped, never the system message.

    Args:
        system: content of the system message.
        stop: strings that an answer ends before.
        dtype: weight dtype.

    Attributes:
        messages: dicts with role and content, as the chat template takes them.
        engine: made for the first answer and reused, so that its prefix cache has what earlier turns computed. A
            conversation that outgrows it gets one of twice the size it needs.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: tokenizers.Tokenizer,
        sampling: SamplingParams,
        *,
        system: str | None = None,
        stop: Sequence[str] = (),
        dtype: ModelDtype = "float32",
    ) -> None:
        self._model, self._tokenizer, self._sampling, self._dtype = model, tokenizer, sampling, dtype
        self._system = [] if system is None else [{"role": "system", "content": system}]
        ending, self._prefix = tokenizers.answer_bounds(tokenizer)
        self._stop = (*ending, *stop)
        self.messages: list[dict[str, str]] = list(self._system)
        self.engine: Engine | None = None

    def clear(self) -> None:
        """Drops all messages but the system message."""
        self.messages = list(self._system)

    def answer(self, message: str) -> Generator[TextPiece, None, None]:
        """The answer, piece by piece. One that is broken off stays in the messages as far as it went.

        Raises:
            ContextLengthExceeded: this message alone does not fit the context beside an answer.
            RequestError: the chat template refuses the messages, or a setting is out of range.
            UnknownToken: the tokenizer does not know a character of the message.
        """
        self.messages.append({"role": "user", "content": message})
        try:
            request = self._fitting_request()
            engine = self._engine_for(len(request.prompt_ids) + self._sampling.max_new_tokens)
        except LLMError:
            self.messages.pop()  # the messages are as before
            raise
        answer = ""
        try:
            for _, piece in run_requests(engine, self._tokenizer, [request], self._stop, prefix=self._prefix):
                answer += piece.text
                yield piece
        except KeyboardInterrupt:
            self.engine = None  # it may have been interrupted within a step
            raise
        finally:
            self.messages.append({"role": "assistant", "content": answer})

    def _engine_for(self, tokens: int) -> Engine:
        if self.engine is None or self.engine.max_len < tokens:
            self.engine = None  # memory may not suffice for two
            length = min(cache_length(2 * tokens), self._model.config.max_seq_len)
            self.engine = Engine(self._model, max_batch=1, max_len=length, dtype=self._dtype, prefix_tokens=length)
        return self.engine

    def _fitting_request(self) -> Request:
        """The request for an answer to the messages; the oldest turns are dropped until it fits."""
        oldest = len(self._system)
        messages = list(self.messages)
        while True:
            prompt = tokenizers.render_chat(self._tokenizer, messages)
            try:
                request = prepare_request(
                    self._model.config,
                    self._tokenizer,
                    prompt,
                    self._sampling,
                    truncate=False,
                    add_special_tokens=False,
                    stop=self._stop,
                )
            except ContextLengthExceeded:
                if len(messages) == oldest + 1:
                    raise
                del messages[oldest : oldest + 2]  # a question and its answer
            else:
                self.messages = messages
                return request

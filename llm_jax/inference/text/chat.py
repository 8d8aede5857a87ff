"""A conversation: the model answers with all that was said before in mind."""

from collections.abc import Generator, Sequence

from llm_jax.errors import LLMError
from llm_jax.inference.engine.engine import Engine
from llm_jax.inference.engine.request import SamplingParams
from llm_jax.inference.text.generate import round_up, run_requests
from llm_jax.inference.text.stream import ContextLengthExceeded, TextPiece, prepare_request
from llm_jax.kernels import WeightDtype
from llm_jax.model import Model
from llm_jax.tokenizers import Tokenizer, answer_bounds, render_chat


class Conversation:
    """Messages that grow turn by turn. When they outgrow the context, the oldest are forgotten, the system message not.

    Attributes:
        messages: dicts with role and content, as the chat template takes them.
        engine: made for the first answer and kept, with what it computed of the prompts before, so that a turn costs
            what is new in it. A conversation that outgrows it gets one of twice the size it needs.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        *,
        system: str | None = None,
        stop: Sequence[str] = (),
        dtype: WeightDtype = "float32",
    ) -> None:
        self._model, self._tokenizer, self._sampling, self._dtype = model, tokenizer, sampling, dtype
        self._system = [] if system is None else [{"role": "system", "content": system}]
        ending, self._prefix = answer_bounds(tokenizer)
        self._stop = (*ending, *stop)
        self.messages: list[dict[str, str]] = list(self._system)
        self.engine: Engine | None = None

    def clear(self) -> None:
        """Forgets all but the system message."""
        self.messages = list(self._system)

    def answer(self, message: str) -> Generator[TextPiece, None, None]:
        """The answer, piece by piece. One that is broken off is remembered as far as it went.

        Raises:
            ContextLengthExceeded: this message alone leaves no room for an answer.
            RequestError: the chat template refuses the messages, or a setting is out of range.
            UnknownToken: the tokenizer does not know a character of the message.
        """
        self.messages.append({"role": "user", "content": message})
        try:
            prompt = self._fitting_prompt()
            request = prepare_request(self._model.config, self._tokenizer, prompt, self._sampling, truncate=False)
            engine = self._engine_for(len(request.prompt_ids) + self._sampling.max_new_tokens)
        except LLMError:
            self.messages.pop()  # as if it had not been said
            raise
        said = ""
        try:
            for _, piece in run_requests(engine, self._tokenizer, [request], self._stop):
                text = piece.text.removeprefix(self._prefix) if not said else piece.text
                said += text
                yield TextPiece(text, piece.tokens, piece.finish_reason)
        except KeyboardInterrupt:
            self.engine = None  # it may have been in the middle of a step
            raise
        finally:
            self.messages.append({"role": "assistant", "content": said})

    def _engine_for(self, tokens: int) -> Engine:
        if self.engine is None or self.engine.max_len < tokens:
            self.engine = None  # there may not be room for two
            room = min(round_up(2 * tokens), self._model.config.max_seq_len)
            self.engine = Engine(self._model, max_batch=1, max_len=room, dtype=self._dtype, prefix_tokens=room)
        return self.engine

    def _fitting_prompt(self) -> str:
        room = self._model.config.max_seq_len - self._sampling.max_new_tokens
        oldest = len(self._system)
        kept = list(self.messages)
        while True:
            prompt = render_chat(self._tokenizer, kept)
            length = len(self._tokenizer.encode(prompt))
            if length <= room:
                self.messages = kept
                return prompt
            if len(kept) == oldest + 1:
                raise ContextLengthExceeded(
                    f"The message has {length} tokens with the chat format, and this model's context leaves {room} "
                    f"beside an answer of {self._sampling.max_new_tokens}. Shorten it or ask for fewer.",
                    "prompt",
                )
            del kept[oldest : oldest + 2]  # a question and its answer

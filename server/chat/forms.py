"""What a request's text is held to: a form of its own, or the arguments of its tools."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from llm_jax.errors import LLMError, RequestError
from llm_jax.inference import Constraint, Grammars
from llm_jax.tokenizers import Tokenizer
from server.chat.chat_format import ChatFormat
from server.http.errors import CONFLICT, UNUSABLE, InvalidRequest

if TYPE_CHECKING:
    from server.chat.chat_request import ChatRequest, OutputFormat, Tool
    from server.schemas.sampling import SamplingFields


class Forms:
    """Makes the constraints of one model's requests. What grammars need is made for the first one."""

    def __init__(
        self, tokenizer: Tokenizer, chat_format: ChatFormat, *, vocab_size: int, end_ids: Collection[int]
    ) -> None:
        self._tokenizer, self._chat_format, self._vocab_size = tokenizer, chat_format, vocab_size
        self._end_ids = {*end_ids, *(() if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))}
        self._making = threading.Lock()
        self._made: Grammars | None = None

    def constraint(self, body: SamplingFields, chat: ChatRequest | None) -> Constraint | None:
        """The constraint of one choice.

        Raises:
            InvalidRequest: it cannot be held to; the message says what of it.
        """
        tools = chat.callable_tools if chat else []
        if body.output is None and not tools:
            return None
        if body.ignore_eos:
            raise InvalidRequest(
                "'ignore_eos' cannot be combined with a form or with tools: their text ends where they do.",
                param="ignore_eos",
                code=CONFLICT,
            )
        try:
            if chat and tools:
                return self._tool_calls(chat, tools, body.output)
            assert body.output is not None
            return self._form(body.output)
        except LLMError as error:
            is_tools = isinstance(error, RequestError) and error.param == "tools"
            raise InvalidRequest(str(error), param="tools" if is_tools else body.output_field, code=UNUSABLE) from None

    def _tool_calls(self, chat: ChatRequest, tools: list[Tool], output: OutputFormat | None) -> Constraint:
        schema = None
        if output is not None and output.kind not in ("json_object", "json_schema"):
            raise RequestError(f"A text that may call tools cannot be held to a {output.kind} too; leave one out.")
        if output is not None:
            schema = {"type": "object"} if output.value is None else output.value
        return self._grammars.tool_calls(
            self._chat_format.calls,
            [(tool.name, tool.parameters) for tool in tools],
            is_required=chat.tool_choice.mode == "required",
            is_parallel=chat.tool_choice.parallel and not self._chat_format.calls.is_lone,
            schema=schema,
        )

    def _form(self, output: OutputFormat) -> Constraint:
        grammars, value = self._grammars, output.value
        match output.kind:
            case "json_object":
                return grammars.json_object()
            case "json_schema":
                return grammars.json_schema(value)
            case "regex":
                return grammars.regex(value)
            case "choice":
                return grammars.choice(value)
            case "grammar":
                return grammars.lark(value)

    @property
    def _grammars(self) -> Grammars:
        with self._making:
            if self._made is None:
                self._made = Grammars(self._tokenizer, vocab_size=self._vocab_size, end_ids=self._end_ids)
            return self._made

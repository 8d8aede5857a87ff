"""The chat format of a model: how a conversation becomes a prompt, and where an answer begins and ends."""

from dataclasses import dataclass

from llm_jax.errors import RequestError
from llm_jax.tokenizers import Tokenizer, answer_bounds, render_chat
from server.chat_request import ChatRequest
from server.errors import InvalidRequest


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer's chat template.

    Attributes:
        stop: strings that end an answer beside the end-of-text token.
        prefix: what stands before an answer's first word and is not part of it.
    """

    tokenizer: Tokenizer
    stop: tuple[str, ...] = ()
    prefix: str = ""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "ChatFormat":
        return cls(tokenizer, *answer_bounds(tokenizer))

    def render(self, chat: ChatRequest) -> str:
        """The prompt.

        Raises:
            InvalidRequest: the template refuses these messages.
        """
        try:
            return render_chat(
                self.tokenizer,
                chat.messages,
                tools=[tool.for_template() for tool in chat.tools] or None,
                add_generation_prompt=chat.add_generation_prompt and not chat.continue_final,
                **chat.variables,
            )
        except RequestError as error:
            raise InvalidRequest(str(error), param=error.param, code="invalid_value") from None

"""Bodies of /tokenize and /detokenize, with vLLM's names."""

from typing import ClassVar

from server.schemas.base import Body
from server.schemas.openai import ChatBody
from server.schemas.sampling import TokenId


class TokenizeBody(Body):
    """POST /tokenize, for a prompt."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatBody(ChatBody):
    """POST /tokenize, for a chat, in the body that would ask for its answer, however long that may be."""

    is_bounded: ClassVar = False

    return_token_strs: bool = False


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[TokenId]

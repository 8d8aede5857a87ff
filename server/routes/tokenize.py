"""POST /tokenize and /detokenize."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llm_jax.errors import TokenizerError
from server.http.errors import InvalidRequest
from server.lifecycle import registry_of
from server.schemas.base import read_object, refusal
from server.schemas.tokenize import DetokenizeBody, TokenizeBody, TokenizeChatBody

if TYPE_CHECKING:
    from llm_jax.tokenizers import Tokenizer
    from server.served_model import ServedModel


async def tokenize(request: Request) -> Response:
    """Text to token ids. A prompt, or the messages of a chat as its template renders them."""
    values = await read_object(request)
    body = (TokenizeBody if values.get("messages") is None else TokenizeChatBody).parse(values)
    model = registry_of(request).resolve(body.model)
    ids = await asyncio.to_thread(_encode, model, body)
    strings = [_written(model.tokenizer, index) for index in ids] if body.return_token_strs else None
    return JSONResponse({"count": len(ids), "max_model_len": model.max_len, "tokens": ids, "token_strs": strings})


async def detokenize(request: Request) -> Response:
    """Token ids to text."""
    body = await DetokenizeBody.read(request)
    model = registry_of(request).resolve(body.model)
    last = model.limits["vocabulary"]
    for place, token in enumerate(body.tokens):
        if token > last:
            raise refusal(f"tokens[{place}]", token, f"the ids of this model are 0 to {last}")
    # A vocabulary may be padded: what the tokenizer has no text for has none.
    known = [token for token in body.tokens if token < model.tokenizer.vocab_size]
    return JSONResponse({"prompt": await asyncio.to_thread(model.tokenizer.decode, known)})


def _encode(model: ServedModel, body: TokenizeBody | TokenizeChatBody) -> list[int]:
    if isinstance(body, TokenizeBody):
        text, param = body.prompt, "prompt"
    else:
        text, param = model.chat_format.render(body.chat()), "messages"
    tokenizer = model.tokenizer
    try:
        return (tokenizer.encode_with_special_tokens if body.add_special_tokens else tokenizer.encode)(text)
    except TokenizerError as error:
        raise InvalidRequest(str(error), param=param, code="invalid_value") from None


def _written(tokenizer: Tokenizer, index: int) -> str:
    """The text of one token; a special token, which has none, as it is written."""
    hidden = {number: written for written, number in tokenizer.hidden_tokens.items()}
    return hidden.get(index) or tokenizer.decode([index])

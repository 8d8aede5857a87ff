"""Log-probabilities of tokens in the formats of chat completions and completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.generation.deltas import LoggedToken, TokenText

Json = dict[str, Any]


def chat_logprobs(tokens: Iterable[LoggedToken]) -> Json:
    """As OpenAI's chat answers have them."""
    content = [
        {**_chat_token(token.token), "top_logprobs": [_chat_token(other) for other in token.alternatives]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[LoggedToken]) -> Json:
    """As OpenAI's completions have them: a list per property. Alternatives include the token itself."""
    return {
        "text_offset": [token.offset for token in tokens],
        "token_logprobs": [token.token.logprob for token in tokens],
        "tokens": [_written(token.token) for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
    }


def prompt_logprobs(tokens: Iterable[LoggedToken]) -> list[Json | None]:
    """As vLLM has them: for each token but the first an object from ids to log-probabilities."""
    return [
        None
        if token.token.logprob is None
        else {
            str(other.id): {"logprob": other.logprob, "rank": rank, "decoded_token": other.text}
            for other, rank in _ranked(token)
        }
        for token in tokens
    ]


def _ranked(token: LoggedToken) -> list[tuple[TokenText, int | None]]:
    """The alternatives with their ranks, and the token itself, whose rank is unknown where it is none of them."""
    ranked: list[tuple[TokenText, int | None]] = [(other, rank) for rank, other in enumerate(token.alternatives, 1)]
    if all(other.id != token.token.id for other in token.alternatives):
        ranked.insert(0, (token.token, None))
    return ranked


def _chat_token(token: TokenText) -> Json:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}


def _alternatives(token: LoggedToken) -> dict[str, float | None] | None:
    if token.token.logprob is None:
        return None
    likely = {_written(other): other.logprob for other in reversed(token.alternatives)}  # of two alike the likelier one
    return dict(reversed(likely.items())) | {_written(token.token): token.token.logprob}


def _written(token: TokenText) -> str:
    return f"bytes:{token.text}" if token.is_partial else token.text

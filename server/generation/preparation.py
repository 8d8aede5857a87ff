"""From what a client asks for to what the engine takes: prompts and conversations become requests."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from llm_jax.checkpoint import GenerationDefaults
from llm_jax.config import ModelConfig
from llm_jax.errors import LLMError, RequestError, TokenizerError
from llm_jax.inference import ContextLengthExceeded, Request, SamplingParams, prepare_request
from llm_jax.tokenizers import Tokenizer
from server.access.account import Account
from server.chat.chat_format import ChatFormat
from server.chat.chat_request import ChatRequest
from server.chat.forms import Forms
from server.generation.choice_text import ChoiceText, TextOptions
from server.http.errors import CONFLICT, InvalidRequest
from server.schemas.base import refusal
from server.schemas.embeddings import EmbeddingBody
from server.schemas.sampling import SamplingFields
from server.settings import Settings

Prepared = tuple[Request, ChoiceText]  # a choice before it is submitted


class Preparation:
    """Makes the requests of one model.

    Args:
        generation: the model's end ids, and its sampling defaults, which act where the settings say so.
        max_len: tokens that a request may have, prompt and completion together.
    """

    def __init__(
        self,
        config: ModelConfig,
        generation: GenerationDefaults,
        tokenizer: Tokenizer,
        settings: Settings,
        *,
        max_len: int,
    ) -> None:
        self.chat_format = ChatFormat.of(tokenizer)
        self._config, self._tokenizer, self._max_len = config, tokenizer, max_len
        self._eos_ids = generation.eos_ids
        self._forms = Forms(tokenizer, self.chat_format, vocab_size=config.vocab_size, end_ids=self._eos_ids)
        self._sampling_defaults = generation.sampling if settings.generation_config == "auto" else {}
        self._default_limit = max_len if settings.default_max_tokens == "context" else settings.default_max_tokens

    def complete(
        self, prompts: Sequence[str | Sequence[int]], body: SamplingFields, account: Account
    ) -> list[Prepared]:
        """The choices of each prompt, those of the first one first.

        Raises:
            InvalidRequest: a prompt or a setting is not one that this model can serve.
        """
        return [choice for prompt in prompts for choice in self._prompt(prompt, body, account)]

    def chat(self, chat: ChatRequest, body: SamplingFields, account: Account) -> list[Prepared]:
        """The choices of an answer. Raises what `complete` does."""
        form = self.chat_format
        request = self._request(form.render(chat), body, account)
        prefix = form.prefix if chat.begins_last or not chat.continue_final else ""
        text = TextOptions(stop=form.stop, prefix=prefix, echo=chat.echoed, shown=form.shown(chat))
        return self._choices(request, body, text, chat)

    def embeddings(self, texts: Sequence[str | Sequence[int]], body: EmbeddingBody) -> list[Sequence[int]]:
        """The ids of texts to embed.

        Raises:
            InvalidRequest: a text is not one that this model can embed.
        """
        encode = self._tokenizer.encode_with_special_tokens if body.add_special_tokens else self._tokenizer.encode
        try:
            prompts = [encode(text) if isinstance(text, str) else text for text in texts]
            for ids in prompts:
                request = Request(prompt_ids=tuple(ids), sampling=SamplingParams(), is_embedding=True)
                request.check(self._config.vocab_size, self._max_len)
        except ContextLengthExceeded:
            raise InvalidRequest(
                f"This model's maximum context length is {self._max_len} tokens, and a text of the input has "
                f"{len(ids)}. Shorten it.",
                param="input",
                code="context_length_exceeded",
            ) from None
        except (RequestError, TokenizerError) as error:
            raise _refusal(error, "prompt", body) from None
        return prompts

    def _prompt(self, prompt: str | Sequence[int], body: SamplingFields, account: Account) -> list[Prepared]:
        request = self._request(prompt, body, account)
        echo = "" if not body.echoes else prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
        return self._choices(request, body, TextOptions(echo=echo, logs_end=True), None)

    def _request(self, prompt: str | Sequence[int], body: SamplingFields, account: Account) -> Request:
        try:
            encode = self._tokenizer.encode_with_special_tokens if body.add_special_tokens else self._tokenizer.encode
            ids = encode(prompt) if isinstance(prompt, str) else prompt
            limit = body.token_limit or max(1, body.min_tokens, min(self._default_limit, self._max_len - len(ids)))
            sampling = SamplingParams(
                max_new_tokens=limit,
                stop_ids=(*(() if body.ignore_eos else self._eos_ids), *(body.stop_token_ids or ())),
                **body.sampling(self._sampling_defaults),
            )
            request = prepare_request(
                self._config,
                self._tokenizer,
                ids,
                sampling,
                truncate=False,
                stop=body.stop_strings,
                ignore_eos=body.ignore_eos,
                max_len=self._max_len,
            )
        except ContextLengthExceeded as error:
            raise self._too_long(error, body, len(ids), limit) from None
        except RequestError as error:
            raise _refusal(error, error.param or "prompt", body) from None
        except TokenizerError as error:
            raise _refusal(error, "prompt", body) from None
        self._check_stop_ids(body)
        salt = json.dumps([account.name, body.cache_key])
        return replace(request, salt=salt, tenant=account.name, priority=account.priority(body.priority))

    def _choices(
        self, request: Request, body: SamplingFields, text: TextOptions, chat: ChatRequest | None
    ) -> list[Prepared]:
        special = {} if body.skip_special_tokens else self._tokenizer.hidden_tokens
        text = replace(
            text,
            shown={**text.shown, **{index: written for written, index in special.items()}},
            stop=(*body.stop_strings, *text.stop),
            logs=body.alternatives is not None,
            logs_prompt=body.prompt_alternatives is not None,
            min_tokens=body.min_tokens,
            is_empty=body.is_empty,
        )
        prepared = []
        for index in range(body.choices):
            constraint = self._forms.constraint(body, chat)
            own = replace(self._seeded(request, index), constraint=constraint)
            calls = self.chat_format.parser(chat) if chat else None
            prepared.append((own, ChoiceText(self._tokenizer, request.prompt_ids, text, calls)))
        return prepared

    def _check_stop_ids(self, body: SamplingFields) -> None:
        unknown = next((token for token in body.stop_token_ids or () if token >= self._config.vocab_size), None)
        if unknown is not None:
            raise refusal("stop_token_ids", unknown, f"ids of this model are 0 to {self._config.vocab_size - 1}")

    @staticmethod
    def _seeded(request: Request, index: int) -> Request:
        """With a seed of its own: choices of one prompt differ."""
        seed = request.sampling.seed
        if not index or seed is None:
            return request
        return replace(request, sampling=replace(request.sampling, seed=seed + index))

    def _too_long(self, error: ContextLengthExceeded, body: SamplingFields, prompt: int, limit: int) -> InvalidRequest:
        """In words that clients look for."""
        name = body.field_names.get(error.param or "prompt", error.param or "prompt")
        completion = body.field_names.get("max_new_tokens", "max_new_tokens")
        return InvalidRequest(
            f"This model's maximum context length is {self._max_len} tokens, and this request needs {prompt + limit}: "
            f"{prompt} in the {body.field_names.get('prompt', 'prompt')} and {limit} for the completion. Shorten the "
            f"prompt, or lower {completion}.",
            param=name,
            code="context_length_exceeded",
        )


def _refusal(error: LLMError, param: str, body: SamplingFields | EmbeddingBody) -> InvalidRequest:
    """The core's error, in the route's names, and without numbers that fill the screen."""
    name = body.field_names.get(param, param)
    message = re.sub(r"\d{40,}", lambda digits: digits[0][:40] + "…", str(error).replace(param, name))
    code = CONFLICT if param == "min_new_tokens" else "invalid_value"
    return InvalidRequest(message, param=name, code=code)

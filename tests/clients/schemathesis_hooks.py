"""What no schema can say of a valid request, loaded by schemathesis: one is changed so that this model can serve it.

A token must be one of the model's, prompt and completion must fit its context, a choice of a tool names one of the same
request, a JSON schema, a regular expression or a grammar is one that is understood, a field goes with another.
Invalid requests are sent as they are.
"""

from typing import Any

import schemathesis

VOCABULARY = 256  # ids of bytes, which every tokenizer of the tests has
COMPLETION = 50
LONGEST, SEVERAL = 50, 4  # characters, entries
TOKEN_FIELDS = {"prompt", "input", "tokens", "stop_token_ids"}
LIMITS = {"max_tokens", "max_new_tokens", "max_completion_tokens", "max_output_tokens"}
FORMS = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        case.body = servable(case.body)


def servable(body: dict[str, Any]) -> dict[str, Any]:
    body = {name: _field(name, _short(value)) for name, value in body.items() if value is not None}
    body = {name: value for name, value in body.items() if name not in FORMS}
    if "max_tokens" not in body and "min_tokens" in body:
        body["min_tokens"] = 0
    if "min_tokens" in body:
        body["min_tokens"] = min([body["min_tokens"], *(body[name] for name in LIMITS & body.keys())])
    if isinstance(body.get("input"), list) and all(_is_reasoning(item) for item in body["input"]):
        body["input"] = "a"
    if body.get("tool_choice") not in ("auto", "none"):
        body.pop("tool_choice", None)
    if body.get("top_logprobs"):
        body["logprobs"] = True
    if body.get("stream"):
        body.pop("prompt_logprobs", None)
    if "best_of" in body:
        body.pop("n", None)
        body.pop("stream", None)
    if body.get("continue_final_message"):
        body["add_generation_prompt"] = False
    body.pop("chat_template_kwargs", None)
    return body


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST]
    if isinstance(value, list):
        return [_short(part) for part in value[:SEVERAL]]
    if isinstance(value, dict):
        return {name[:LONGEST]: _short(part) for name, part in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_reasoning(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "reasoning"


def _field(name: str, value: Any) -> Any:
    if name in LIMITS:
        return min(value, COMPLETION)
    if name in ("n", "best_of"):
        return min(value, 2)
    if name in TOKEN_FIELDS:
        return _tokens(value)
    if name == "prompts":
        return [text or "a" for text in value]
    if name == "logit_bias":
        return {str(int(token) % VOCABULARY): bias for token, bias in value.items()}
    if name in ("response_format", "output_config", "text"):
        return {"type": "text"} if name == "response_format" else {}
    if name == "tools":
        return [_tool(tool, number) for number, tool in enumerate(value)]
    return value


def _tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_tokens(part) for part in value]
    return value % VOCABULARY if isinstance(value, int) else value or "a" if isinstance(value, str) else value


def _tool(tool: Any, number: int) -> Any:
    """With a name that no other has, and without a schema."""
    if "function" in tool:
        return {**tool, "function": {"name": f"f{number}"}}
    schema = {"input_schema": {"type": "object"}} if "input_schema" in tool else {}
    return {
        **{k: v for k, v in tool.items() if k not in ("parameters", "input_schema")},
        "name": f"f{number}",
        **schema,
    }

"""What schemathesis' own check of valid requests cannot know, loaded by it as a check in that one's place.

It changes no request, and looks at no other status: each request that is valid by the schema must be accepted, unless
it is refused for one of three reasons that no JSON schema can state, each with a code of its own.
"""

import json
from typing import Any

import schemathesis

BEYOND_SCHEMAS = {
    "context_length_exceeded": "the tokens of a prompt and its completion are more than the context has",
    "conflicting_parameters": "two fields do not go together, such as a tool's choice and the tools",
    "unusable_constraint": "a text is no regular expression, grammar or JSON schema that can be held to",
}
REFUSED = {400, 413, 414, 415, 422, 431}  # a name may be of no model (404), a key without rights (401, 403)


@schemathesis.check
def valid_requests_are_accepted(context: Any, response: Any, case: Any) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in REFUSED:
        return
    error = json.loads(response.content)["error"]
    assert error["code"] in BEYOND_SCHEMAS, f"a valid request is refused: {error}"

# /// script
# requires-python = ">=3.11"
# dependencies = ["instructor==1.17.0"]
#
# [tool.uv]
# exclude-newer = "2026-11-28T00:00:00Z"
# ///
"""Instructor, in its tools and JSON modes."""

import instructor
import openai
from pydantic import BaseModel


class City(BaseModel):
    name: str
    capital: bool


MODES = (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA)
for mode in MODES:
    client = instructor.from_openai(openai.OpenAI(), mode=mode)
    found = client.chat.completions.create(
        model="llm", messages=[{"role": "user", "content": "A city"}], response_model=City, temperature=0, max_retries=0
    )
    assert isinstance(found, City), mode

"""/docs: the content of /openapi.json as one page that loads nothing else."""

import json
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} {{ info.version }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  @media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
  code { font-size: 0.9em; }
  h2 { border-top: 1px solid #8886; padding-top: 1rem; }
  td, th { text-align: left; vertical-align: top; padding: 0.1rem 1rem 0.1rem 0; overflow-wrap: anywhere; }
</style>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} As a document for programs: <a href="openapi.json">openapi.json</a>. Every route is also
reached with or without <code>/v1</code>, and with a slash at its end.
{% for path, methods in paths.items() %}{% for method, operation in methods.items() if method != "head" %}
<h2><code>{{ method | upper }} {{ path }}</code></h2>
<p>{{ operation.summary }}. {{ operation.description }}
{% if operation.requestBody %}
{% set schema = operation.requestBody.content["application/json"].schema %}
<p>Body: {{ type_of(schema) }}, such as
<pre>{{ operation.requestBody.content["application/json"].example | tojson }}</pre>
{% endif %}
<p>Answers: {% for status, answer in operation.responses.items() -%}
{{ status }} {{ answer.description }}{% if status == "200" %} ({{ answer.content | join(", ") }}){% endif %}
{%- if not loop.last %}, {% endif %}{% endfor %}
{% endfor %}{% endfor %}
{% for name, schema in components.schemas.items() %}
<h2 id="{{ name }}">{{ name }}</h2>
<p>{{ schema.description }}
{% if schema.properties %}
<table>
<tr><th>Field<th>Type<th>Default
{% for field, value in schema.properties.items() %}
<tr><td><code>{{ field }}</code><td>{{ type_of(value) }}
<td>{% if field in schema.required %}required{% elif value.default is not none and value.default is defined %}
<code>{{ value.default | tojson }}</code>{% endif %}
{% endfor %}
</table>
{% else %}<p>{{ type_of(schema) }}
{% endif %}
{% endfor %}
</html>
"""
LIMITS = {
    "minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}",
    "minLength": "{} characters or more", "maxLength": "{} characters or fewer",
    "minItems": "{} or more", "maxItems": "{} or fewer",
}  # fmt: skip


def documentation_page(document: dict[str, Any]) -> str:
    """HTML for an OpenAPI document."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE).render(document, type_of=_type)


def _type(schema: dict[str, Any]) -> Markup:
    """A schema in one line; null, which every optional field may be, left out."""
    if "$ref" in schema:
        return Markup('<a href="#{0}">{0}</a>').format(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema and "type" not in schema:
        return Markup(" or ").join(_type(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return Markup(", ").join(Markup("<code>{}</code>").format(json.dumps(value)) for value in values)
    kind = schema.get("type", "anything")
    name = Markup(" or ").join(kind) if isinstance(kind, list) else Markup.escape(kind)
    if "items" in schema:
        name += Markup(" of ") + _type(schema["items"])
    elif isinstance(schema.get("additionalProperties"), dict):
        name += Markup(" to ") + _type(schema["additionalProperties"])
    limits = ", ".join(words.format(schema[limit]) for limit, words in LIMITS.items() if limit in schema)
    return name + (Markup(" ({})").format(limits) if limits else "")

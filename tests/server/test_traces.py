"""Spans, as an exporter of OpenTelemetry receives them."""

import asyncio
from pathlib import Path

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="traces need the extra otel")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.traces import Traces
from tests.server.in_process import serving
from tests.server.tiny import TOKENS

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_span_of_the_trace_that_it_names_without_its_text(reciter: Path) -> None:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    with serving(reciter, observers=[traces]) as app:
        messages = [{"role": "user", "content": "a secret question"}]

        async def ask() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app.app), base_url="http://server") as client:
                body = {"messages": messages, "temperature": 0}
                await client.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})
                await client.post("/v1/embeddings", json={"input": "another secret"})

        asyncio.run(ask())
    traces.provider.force_flush()
    chat, embedding = exporter.get_finished_spans()
    assert (chat.name, embedding.name) == ("chat llm", "embeddings llm")
    assert chat.parent is not None
    assert f"{chat.context.trace_id:032x}-{chat.parent.span_id:016x}" == PARENT[3:-3]
    assert embedding.parent is None
    assert chat.attributes is not None
    assert chat.attributes["gen_ai.usage.output_tokens"] == TOKENS
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    names = [event.name for event in chat.events]
    assert names == ["batch slot", "first token"]
    times = [chat.start_time, *(event.timestamp for event in chat.events), chat.end_time]
    assert times == sorted(times)
    assert not any("secret" in span.to_json() for span in (chat, embedding))

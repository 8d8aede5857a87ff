"""The dashboard asks Prometheus only for what the server publishes."""

import json
import re
from pathlib import Path

from tests.server.live import Server

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana/dashboards/llm.json"


def test_every_query_names_a_published_metric(server: Server) -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:llm|http)_\w+", target["expr"])
    }
    assert len(asked) > 10
    published = set(re.findall(r"^# TYPE (\S+)", server.metrics_text(), re.MULTILINE))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= published

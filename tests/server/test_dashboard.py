"""The dashboard, the alert rules and the autoscaler ask Prometheus only for what the server publishes."""

import re
from pathlib import Path

import httpx
import yaml

from tests.deploy import queries
from tests.server.live import Server

AUTOSCALER = Path(__file__).parents[2] / "deploy/kubernetes/base/autoscaler.yaml"
# What the Inference Extension's model server protocol asks for.
PROTOCOL = {"llm_num_requests_waiting", "llm_num_requests_running", "llm_kv_cache_usage_perc", "llm_cache_config_info"}


def test_every_query_names_a_published_metric(server: Server, http: httpx.Client) -> None:
    assert http.post("/generate", json={"prompt": "Say"}).status_code == 200
    text = server.metrics_text()
    asked = {name for query in queries() for name in re.findall(r"\b(?:llm|http)_\w+", query)}
    assert len(asked) > 10
    [metric] = yaml.safe_load(AUTOSCALER.read_text(encoding="utf-8"))["spec"]["metrics"]
    asked |= PROTOCOL | {metric["pods"]["metric"]["name"]}
    published = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= published
    labels = {label for query in queries() for label in re.findall(r"(\w+)=~?\"", query)} - {"job"}
    labels |= {
        name for query in queries() for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(", ")
    } - {"instance"}
    assert labels <= set(re.findall(r'[{,](\w+)="', text)) | {"reason"}  # nothing has been refused yet

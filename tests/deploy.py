"""What deploy/ asks Prometheus."""

import json
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


def queries() -> list[str]:
    """The expressions of the dashboard's panels and of the alert rules."""
    panels = json.loads((DEPLOY / "grafana/dashboards/llm.json").read_text(encoding="utf-8"))["panels"]
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [target["expr"] for panel in panels for target in panel["targets"]] + [
        rule["expr"] for group in groups for rule in group["rules"]
    ]

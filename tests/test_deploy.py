"""What is in deploy/: manifests that Kubernetes takes, rules and panels that ask for metrics which exist.

The schemas are those of the package kubernetes-validate; `make check-deploy` installs it, and has Prometheus' own
promtool and a server under load check the rules.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings, load_settings

DEPLOY = Path(__file__).parents[1] / "deploy"
BASE, GATEWAY = DEPLOY / "kubernetes/base", DEPLOY / "kubernetes/inference-gateway"
VERSION = "1.37"
CUSTOM = {"Kustomization", "InferencePool", "HTTPRoute"}  # are not Kubernetes' own


def manifests() -> dict[str, dict[str, Any]]:
    paths = sorted(DEPLOY.glob("kubernetes/*/*.yaml"))
    return {str(path.relative_to(DEPLOY)): yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [manifest for manifest in manifests().values() if manifest["kind"] == kind]
    return found


@pytest.mark.parametrize("path", [path for path, manifest in manifests().items() if manifest["kind"] not in CUSTOM])
def test_a_manifest_is_valid(path: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="`make check-deploy` installs the schemas")
    validate.validate(manifests()[path], VERSION, strict=True)


def test_every_manifest_is_in_its_kustomization() -> None:
    for folder in (BASE, GATEWAY):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
        own = {name for name in listed if name.endswith(".yaml")}
        assert own == {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}


def test_names_and_labels_meet() -> None:
    deployment = of_kind("Deployment")
    template = deployment["spec"]["template"]
    [container] = template["spec"]["containers"]
    labels = template["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        of_kind("Service")["spec"]["selector"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind("InferencePool")["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert container["envFrom"][0]["configMapRef"]["name"] == of_kind("ConfigMap")["metadata"]["name"]
    assert template["spec"]["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]
    claim = template["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == of_kind("PersistentVolumeClaim")["metadata"]["name"]
    [port] = container["ports"]
    assert of_kind("InferencePool")["spec"]["targetPorts"] == [{"number": port["containerPort"]}]
    assert of_kind("Service")["spec"]["ports"][0]["targetPort"] == port["name"]


def test_the_settings_are_settings_and_a_replica_may_drain_as_long_as_it_needs() -> None:
    settings: Settings = load_settings(of_kind("ConfigMap")["data"], {})
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert settings.port == container["ports"][0]["containerPort"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waits + settings.drain_grace < pod["terminationGracePeriodSeconds"]
    [volume] = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "models"]
    assert all(str(path).startswith(f"{volume}/") for path in settings.models.values())


def test_the_proxy_passes_bodies_as_large_and_waits_as_long_as_the_server() -> None:
    text = (DEPLOY / "nginx/llm.conf").read_text(encoding="utf-8")
    [megabytes] = re.findall(r"client_max_body_size (\d+)m;", text)
    [seconds] = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert (int(megabytes) * 2**20, float(seconds)) == (Settings().max_body_bytes, Settings().request_timeout)
    assert yaml.safe_load((GATEWAY / "route.yaml").read_text())["spec"]["rules"][0]["timeouts"]["request"] == "600s"

"""The manifest of a training run on several nodes: a Job that Kubernetes takes, and settings that llm-train reads."""

from pathlib import Path

import pytest
import yaml

from llm_jax.training import load_train_config

MANIFEST = yaml.safe_load((Path(__file__).parents[2] / "deploy/training/jobset.yaml").read_text(encoding="utf-8"))
[NODES] = MANIFEST["spec"]["replicatedJobs"]
JOB = NODES["template"]["spec"]
[CONTAINER] = JOB["template"]["spec"]["containers"]


def test_its_variables_are_settings() -> None:
    environ = {variable["name"]: variable.get("value", "1") for variable in CONTAINER["env"]}  # the rank, by Kubernetes
    distributed = load_train_config(environ=environ).distributed
    assert distributed.num_nodes == JOB["completions"] == JOB["parallelism"]
    assert distributed.node_rank == 1
    name = MANIFEST["metadata"]["name"]
    assert distributed.master_addr == f"{name}-{NODES['name']}-0-0.{name}"
    assert distributed.master_port == CONTAINER["ports"][0]["containerPort"]
    assert distributed.mesh is not None
    assert distributed.mesh.fsdp == CONTAINER["resources"]["limits"]["nvidia.com/gpu"]


def test_its_job_is_valid() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="`make check-deploy` installs the schemas")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": JOB}
    validate.validate(job, "1.37", strict=True)

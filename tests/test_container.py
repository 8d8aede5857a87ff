"""The container files name things that exist. (Building the image needs a container engine; this does not.)"""

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from server.settings import Settings, setting_names, variable_name

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVER = COMPOSE["services"]["server"]


def instructions(name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in DOCKERFILE if line.startswith(name + " ")]


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for line in instructions("ENV") for word in shlex.split(line))


def known_settings() -> set[str]:
    return {variable_name(name) for field in dataclasses.fields(Settings) for name in setting_names(field)}


def test_everything_copied_exists_and_is_sent_to_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {s for line in instructions("COPY") if "--from" not in line for s in shlex.split(line)[:-1]}
    assert {"pyproject.toml", "setup.py", "requirements.lock", "llm_jax", "server", "cli"} <= copied
    assert copied == allowed
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_the_wheel_is_built_from_all_packages_and_holds_native_kernels() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.removesuffix("*").removesuffix(".") for pattern in found}
    assert packages <= {source for line in instructions("COPY") for source in shlex.split(line)[:-1]}
    compiled, installed, checked = (line for line in instructions("RUN") if "/wheels" in line or "native" in line)
    assert "-target $(uname -m)-linux-gnu." in compiled
    assert "pip wheel --no-deps --wheel-dir /wheels ." in compiled
    assert '"$(echo /wheels/*.whl)[$EXTRAS]"' in installed
    assert "EXTRAS=serve" in instructions("ARG")
    assert "native.find()" in checked


def test_the_server_is_what_the_image_runs_and_not_as_root() -> None:
    assert instructions("ENTRYPOINT") == ['["llm-serve"]']
    assert instructions("USER") == ["llm"]
    assert environment()["LLM_SERVING_PORT"] == instructions("EXPOSE")[0] == "8000"
    assert environment()["LLM_SERVING_HOST"] == "0.0.0.0"
    assert "/health" in instructions("HEALTHCHECK")[0]


def test_every_setting_named_in_the_container_files_is_one_that_the_server_reads() -> None:
    named = set(
        re.findall(r"LLM_SERVING_[A-Z_]+", (ROOT / "Dockerfile").read_text() + (ROOT / "compose.yaml").read_text())
    )
    assert named
    assert named <= known_settings()


def test_compose_publishes_the_port_that_the_image_listens_on() -> None:
    (port,) = SERVER["ports"]
    assert port.rsplit(":", 1)[1] == environment()["LLM_SERVING_PORT"]
    assert SERVER["build"]["args"].keys() == {"ACCELERATOR"}


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_mounted_files_exist(service: str) -> None:
    for volume in COMPOSE["services"][service].get("volumes", []):
        if volume.startswith("./"):
            assert (ROOT / volume.split(":")[0]).exists(), volume


def test_monitoring_is_a_profile() -> None:
    profiles = {name: service.get("profiles") for name, service in COMPOSE["services"].items()}
    assert profiles == {"server": None, "prometheus": ["monitoring"], "grafana": ["monitoring"]}

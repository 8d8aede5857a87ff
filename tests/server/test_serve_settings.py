"""Flags and variables of `llm-serve`."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

import cli.serve
from llm_jax.errors import ConfigError
from server.settings import Settings, load_settings


def test_a_flag_overrides_its_variable_and_an_empty_variable_is_unset() -> None:
    environ = {"LLM_SERVING_PORT": "9000", "LLM_SERVING_HOST": "", "LLM_SERVING_MAX_QUEUE": "5", "HOME": "/"}
    assert load_settings(environ, {"port": "9001", "host": None}) == Settings(port=9001, max_queue=5)


def test_choices_are_read_in_any_case() -> None:
    settings = load_settings({"LLM_SERVING_LOG_LEVEL": "debug", "LLM_SERVING_DEVICE": "CPU"}, {})
    assert (settings.log_level, settings.device) == ("DEBUG", "cpu")


def test_several_keys_and_none_of_them_printed() -> None:
    settings = load_settings({"LLM_SERVING_API_KEY": "alpha, beta"}, {})
    assert settings.api_keys == ("alpha", "beta")
    assert "alpha" not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "arguments"),
    [
        ({}, ["--model", "mine"]),
        ({}, ["--model-path", "mine"]),
        ({"LLM_SERVING_MODEL": "mine"}, []),
        ({"LLM_SERVING_MODEL_PATH": "mine"}, []),
        ({"LLM_SERVING_MODEL": "mine", "LLM_SERVING_MODEL_PATH": "mine"}, []),
        ({"LLM_SERVING_MODEL": "mine", "LLM_SERVING_MODEL_PATH": ""}, []),
        ({"LLM_SERVING_MODEL": "other"}, ["--model-path", "mine"]),
        ({"LLM_SERVING_MODEL_PATH": "other"}, ["--model", "mine"]),
    ],
)
def test_the_model_has_two_names(
    environ: dict[str, str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Settings] = []
    monkeypatch.setattr(cli.serve, "serve", served.append)
    result = CliRunner().invoke(cli.serve.main, arguments, env=environ)
    assert result.exit_code == 0, result.output
    assert served == [Settings(model=("mine",))]


@pytest.mark.parametrize(
    ("environ", "flags", "words"),
    [
        ({"LLM_SERVING_PROT": "1"}, {}, ["LLM_SERVING_PROT", "LLM_SERVING_PORT"]),
        ({"LLM_SERVING_PORT": "many"}, {}, ["LLM_SERVING_PORT", "'many'"]),
        ({"LLM_SERVING_PORT": "70000"}, {}, ["LLM_SERVING_PORT", "65535"]),
        ({"LLM_SERVING_DEVICE": "cpu"}, {"device": "abacus"}, ["--device", "'abacus'", "cuda"]),
        ({}, {"max_batch": "0"}, ["--max-batch", "'0'", "1"]),
        ({}, {"kv_memory": "much"}, ["--kv-memory", "'much'", "2GB"]),
        ({"LLM_SERVING_API_KEY": ","}, {}, ["LLM_SERVING_API_KEY"]),
        (
            {"LLM_SERVING_MODEL": "a", "LLM_SERVING_MODEL_PATH": "b"},
            {},
            ["LLM_SERVING_MODEL and LLM_SERVING_MODEL_PATH are one setting", "set only one"],
        ),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    environ: dict[str, str], flags: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ, flags)
    for word in words:
        assert word in str(caught.value)


def test_help_lists_every_setting() -> None:
    text = subprocess.run([sys.executable, "-m", "cli.serve", "--help"], capture_output=True, text=True).stdout
    for name in Settings.__dataclass_fields__:
        assert f"LLM_SERVING_{name.upper()};" in " ".join(text.split())
    assert "--model, --model-path TEXT" in text


def test_importing_the_application_does_not_import_jax() -> None:
    """JAX must find the platform in the environment, and the port must be open, before it is imported."""
    check = "import server.process, sys; assert not {'jax', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)

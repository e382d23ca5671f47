"""The options of `pupila serve`: where their values come from, and what is said of those that cannot be used."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from pupila.cli import main
from pupila.cli.serve import EnvironmentOption, serve
from pupila.cli.train import train


def parsed(*arguments: str) -> dict[str, Any]:
    return serve.make_context("serve", list(arguments)).params


def said(*arguments: str) -> str:
    """Return what the command line says of options that it cannot use; it must end at once."""
    done = CliRunner().invoke(main, ["serve", *arguments])
    assert done.exit_code in (1, 2)
    return done.output


@pytest.fixture(autouse=True)
def no_port_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)


def test_the_command_line_comes_before_pupila_port_and_that_before_port(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed()["port"] == 3000
    monkeypatch.setenv("PORT", "8080")
    assert parsed()["port"] == 8080
    monkeypatch.setenv("PUPILA_PORT", "8081")
    assert parsed()["port"] == 8081
    assert parsed("--port", "8082")["port"] == 8082


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:3000", "udp://10.0.0.1:53", ""])
def test_what_kubernetes_sets_for_a_service_is_passed_over(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PUPILA_PORT", value)
    assert parsed()["port"] == 3000
    monkeypatch.setenv("PORT", "8080")
    assert parsed()["port"] == 8080


def test_every_setting_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    types = {
        str(option.name): option.type.name
        for option in serve.get_params(click.Context(serve))
        if isinstance(option, EnvironmentOption)
    }
    samples = {"integer": "7", "float": "7.5", "path": "somewhere", "text": "a,b"}
    for name, kind in types.items():
        monkeypatch.setenv(f"PUPILA_{name.upper()}", samples[kind])
    found = parsed()
    assert {str(found[name]) for name in types} == {
        "7", "7.5", "somewhere", "a,b", "('a', 'b')"
    }  # fmt: skip


def test_a_wrong_value_names_the_variable_that_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_WORKERS", "many")
    assert "Invalid value for PUPILA_WORKERS: 'many'" in said()
    assert "Invalid value for '--workers': 'few'" in said("--workers", "few")


def test_earlier_names_of_options_still_work_and_are_not_in_the_help() -> None:
    found = parsed("--deadline", "1", "--idle", "2", "--drain", "3", "--connections", "4", "--collect", "kept")
    assert (found["request_timeout"], found["graceful_timeout"]) == (1.0, 3.0)
    assert (found["keepalive_timeout"], found["max_connections"], str(found["feedback_dir"])) == (2.0, 4, "kept")
    assert str(train.make_context("train", ["x", "--feedback", "kept"]).params["feedback"]) == "kept"
    shown = CliRunner().invoke(main, ["serve", "--help"]).output + CliRunner().invoke(main, ["train", "--help"]).output
    assert "--feedback-dir PATH" in shown
    assert not {"--deadline", "--idle", "--drain", "--connections", "--collect", "--feedback"} & set(shown.split())

"""The options of `pupila serve`: where their values come from, and what is said of those that cannot be used."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pupila.cli import main
from pupila.cli.serve import EnvironmentOption, serve
from pupila.cli.train import train
from pupila.server.settings import Settings


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


# Where to listen


@pytest.mark.parametrize(
    ("host", "fix"),
    [
        ("127.0.0.1:4103", "--host 127.0.0.1 --port 4103"),
        ("localhost:80", "--host localhost --port 80"),
        ("http://127.0.0.1", "--host 127.0.0.1"),
        ("https://0.0.0.0:4103/", "--host 0.0.0.0 --port 4103"),
        ("http://[::1]:80", "--host ::1 --port 80"),
        ("http://127.0.0.1:port", "--host 127.0.0.1"),
        ("[::1]", "--host ::1"),
        ("[::1]:4103", "--host ::1 --port 4103"),
        (":3000", "--host 0.0.0.0 --port 3000"),
        ("*", "--host 0.0.0.0"),
        (" ", "--host 127.0.0.1"),
        ("unix:", "--host unix:/run/pupila.sock"),
        ("unix:///run/p.sock", "--host unix:/run/p.sock"),
        ("unix://run/p.sock", "--host unix:/run/p.sock"),
        ("~/p.sock", f"--host unix:{Path.home()}/p.sock"),
        ("*:3000", "--host 0.0.0.0 --port 3000"),
        ("/run/p.sock", "--host unix:/run/p.sock"),
    ],
)
def test_a_host_that_is_more_than_an_address_is_named_with_the_fix(host: str, fix: str) -> None:
    output = said("--host", host)
    assert output.startswith("pupila: host")
    assert re.search(re.escape(fix) + r"(\s|$)", output)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("https://example.org/", "https://example.org"),
        ("HTTPS://Example.ORG:443", "https://example.org"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://fotos.são-paulo.br", "https://fotos.xn--so-paulo-rza.br"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("*", "*"),
    ],
)
def test_origins_are_brought_into_the_form_that_browsers_send(given: str, right: str) -> None:
    assert Settings(cors_origins=(given,)).cors_origins == (right,)


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("example.org", "Give https://example.org"),
        ("example.org:8080", "Give https://example.org:8080"),
        ("localhost:5173", "Give http://localhost:5173"),
        ("https:/example.org", "Give https://example.org"),
        ("https://a.org,https://b.org", "the option once for each"),
        ("https://a.org https://b.org", "the option once for each"),
        ("https://example.org/app", "Give https://example.org"),
        ("https://example.org?x=1", "Give https://example.org"),
        ("https://user@example.org", "Give https://example.org"),
        ("https://*.example.org", "is no origin"),
        ("https://", "is no origin"),
        ("https://example.org:port", "is no origin"),
        ("null", "is no origin"),
        ("", "is no origin"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_with_the_right_spelling(given: str, fix: str) -> None:
    assert fix in said("--cors-origins", given)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--forwarded-allow", "proxy.local"), "is no address"),
        (("--forwarded-allow", "10.0.0.0/40"), "is no address"),
        (("--log-level", "loud"), "is none of debug, info, warning, error"),
    ],
)
def test_other_values_that_cannot_be_used_are_named(arguments: tuple[str, ...], part: str) -> None:
    assert part in said(*arguments)

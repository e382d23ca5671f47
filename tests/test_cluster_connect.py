"""An address where no cluster is ends at once, in one sentence that says what to do; a node's lines are shown here."""

import logging
import os
import sys
from pathlib import Path

import pytest
from cluster_kit import free_ports

from pupila.errors import SettingsError

pytest.importorskip("ray")

from pupila.cluster.connect import _reason, connected, shown
from pupila.progress import LOG, printing_to


@pytest.mark.parametrize("address", ["127.0.0.2:{port}", "nonsense", "127.0.0.2:99999", "no.such.host.invalid:6379"])
def test_address_without_a_cluster_is_refused_at_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (port,) = free_ports(1)
    address = address.format(port=port)
    with pytest.raises(SettingsError, match="HOST:6379") as refused, connected(address):
        pass
    said = str(refused.value)
    assert said.startswith(f"{address}: no Ray cluster answers there (") and "\n" not in said
    assert caplog.text == ""


def test_what_is_printed_goes_to_the_log_errors_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for word in ("first", "second"):
        with printing_to(tmp_path / "run"):
            print(word)
            print(f"{word} error", file=sys.stderr)
    assert (tmp_path / "run" / LOG).read_text() == "first\nfirst error\nsecond\nsecond error\n"
    assert capsys.readouterr() == ("", "")


def test_lines_are_shown_once_and_those_of_an_earlier_run_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / LOG).write_text("of an earlier run\n")
    with shown(tmp_path), (tmp_path / LOG).open("a", buffering=1) as node:
        node.write("first\nsec")
        node.write("ond\n")
    assert capsys.readouterr().out == "first\nsecond\n"
    with shown(tmp_path / "nowhere"):
        pass
    assert capsys.readouterr().out == ""


def test_log_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOG)
    with shown(tmp_path):
        pass


def test_exception_that_says_nothing_is_named_by_its_type() -> None:
    assert "no Ray cluster answers there (RuntimeError)." in _reason("127.0.0.1:1", RuntimeError())

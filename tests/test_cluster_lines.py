"""A training's lines, from the node that prints them to the terminal where the command was given."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from pupila.cluster.lines import LOG, printing_to, shown


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

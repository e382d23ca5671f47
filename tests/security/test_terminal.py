"""What a model file says reaches a terminal as text: nothing in it moves the cursor or sets the title."""

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner
from data_kit import make_tar, picture
from server_kit import write_model

from pupila.cli import main
from pupila.cli.group import say
from pupila.evaluation.pages.data_report import Mislabelled
from pupila.progress import LOG, PlainHandler

TITLE = "\x1b]0;owned\x07\x9b2J\u202e"
PLAIN = r"\x1b]0;owned\x07\x9b2J\u202e"


def test_inspect_writes_out_what_would_steer_the_terminal(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", name=f"a{TITLE}\nb", data={"source": f"photos{TITLE}", "train": 3})
    done = CliRunner().invoke(main, ["inspect", str(path)])
    assert done.exit_code == 0, done.output
    assert f"a{PLAIN}\\nb" in done.output and f"photos{PLAIN}" in done.output
    assert not set(TITLE[:2] + "\x07\x9b\u202e") - {"]"} & set(done.output)


def test_what_is_said_or_logged_is_one_line_that_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"one{TITLE}\ntwo")
    PlainHandler().emit(logging.LogRecord("pupila", logging.INFO, "", 0, f"three{TITLE}\nfour", (), None))
    assert capsys.readouterr().out == f"one{PLAIN}\\ntwo\nthree{PLAIN}\\nfour\n"


def test_summary_of_doubtful_labels_is_two_lines_that_steer_nothing() -> None:
    found = Mislabelled(f"photos{TITLE}", (), (), 100, 3, 0.9, f"a model{TITLE}\npupila: all labels are right")
    assert found.text().count("\n") == 1 and f"photos{PLAIN}: 100 labels" in found.text()
    assert f"a model{PLAIN}\\npupila" in found.text()


FORGED = "x\npupila: run this"


@pytest.mark.parametrize("command", ["data", "train"])
def test_name_of_a_picture_makes_no_line_of_an_error(command: str, tmp_path: Path) -> None:
    pictures = {f"{kind}/{n}.png": picture(n) for kind in ("cat", "cow") for n in range(2)}
    path = make_tar(tmp_path / "a.tar", {**pictures, f"dog/{FORGED}.png": b"\xff\xd8broken"})
    done = CliRunner().invoke(main, [command, str(path)], env={"PUPILA_CACHE": str(tmp_path)})
    assert done.exit_code == 1 and "'dog' can be read" in done.output, done.output
    assert "\npupila: run" not in done.output


def test_names_of_classes_make_no_line_of_scores(tmp_path: Path) -> None:
    classes = [f"{name}\npupila: run this" for name in "abcd"]
    model = str(write_model(tmp_path / "m.onnx", classes=classes))
    files = {f"{category}/{n}.png": picture(n) for category in classes for n in range(2)}
    data = str(make_tar(tmp_path / "a.tar", files))
    for command in (["evaluate", model, data], ["compare", model, model, data]):
        done = CliRunner().invoke(main, command, env={"PUPILA_CACHE": str(tmp_path)})
        assert done.exit_code == 0 and "a\\npupila: run" in done.output, done.output
        assert "\npupila: run" not in done.output


@pytest.mark.parametrize("language", ["en", "pt_BR"])
def test_wrong_usage_repeats_a_name_as_text(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_LANG", language)
    done = CliRunner().invoke(main, ["predict", f"a{TITLE}\u200e\u061c.onnx"])
    assert done.exit_code == 2 and rf"a{PLAIN}\u200e\u061c.onnx" in done.output
    assert "\x1b" not in CliRunner().invoke(main, ["predict", f"--{TITLE}"]).output


def test_log_of_a_node_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connect = pytest.importorskip("pupila.cluster.connect")
    with connect.shown(tmp_path):
        (tmp_path / LOG).write_text(f"one{TITLE}\ntwo\n")
    assert capsys.readouterr().out == f"one{PLAIN}\ntwo\n"


def test_of_a_name_without_end_the_beginning_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b" * 10**6)
    PlainHandler().emit(logging.LogRecord("pupila", logging.INFO, "", 0, "\x1b" * 10**6, (), None))
    assert len(capsys.readouterr().out) < 200_000

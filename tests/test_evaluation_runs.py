"""Trainings of one folder compared: what is there is read, what is half made is passed over."""

import json

import pytest
from click.testing import CliRunner

from pupila.cli import main
from pupila.errors import DataError
from pupila.evaluation.comparison import read_runs, write_runs
from pupila.models import bundled_model


def make_run(folder, accuracies, model=False):
    folder.mkdir(parents=True)
    rows = [
        {"epoch": n, "validation_accuracy": value, "seconds": 30.0 * n, "network_size": 64}
        for n, value in enumerate(accuracies, 1)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "recipe.json").write_text(json.dumps({"name": "standard", "weights": "bundled"}))
    if model:
        (folder / "model.onnx").write_bytes(bundled_model().read_bytes())


def test_runs_are_listed_with_the_best_first_and_half_made_ones_passed_over(tmp_path):
    make_run(tmp_path / "low", [0.2, 0.5])
    make_run(tmp_path / "high", [0.6, 0.4], model=True)
    make_run(tmp_path / "running", [0.7])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.jsonl").write_text("{")
    make_run(tmp_path / "deep", [0.9])
    (tmp_path / "deep" / "recipe.json").write_text("[" * 100_000)
    runs = read_runs(tmp_path)
    assert [run.name for run in runs] == ["high", "running", "low"]
    assert runs[0].finished
    assert runs[0].interval is not None
    assert (runs[1].accuracy, runs[1].minutes, runs[1].finished) == (0.7, 0.5, False)


def test_the_command_prints_a_table_and_writes_a_page(tmp_path):
    make_run(tmp_path / "runs" / "one", [0.2, 0.5])
    page = tmp_path / "runs.html"
    found = CliRunner().invoke(main, ["compare", "--runs", str(tmp_path / "runs"), "--report", str(page)])
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[1].split()[:2] == ["one", "(no"]
    assert page.read_text("utf-8").count('<div class="plot">') == 1
    found = CliRunner().invoke(main, ["compare", "--runs", str(tmp_path / "runs"), "--json"])
    assert json.loads(found.output)[0]["minutes"] == 1.0


def test_page_of_runs_cuts_no_cell_on_a_phone_and_names_each(browser, tmp_path):
    make_run(tmp_path / "runs" / "photos-standard-with-a-long-name", [0.5, 0.6], model=True)
    write_runs(tmp_path / "page.html", read_runs(tmp_path / "runs"))
    held = browser.new_context(viewport={"width": 360, "height": 740}, is_mobile=True)
    page = held.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    boxes = [cell.bounding_box() for cell in page.locator("td").all()]
    assert len(boxes) == 8 and all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes)
    said = "getComputedStyle(document.querySelectorAll('td')[4], '::before').content"
    assert page.evaluate(said).startswith('"weights')
    assert page.locator("p code").inner_text() == "pupila compare"
    held.close()


def test_many_runs_are_drawn_as_far_as_they_fit(tmp_path):
    for number in range(10):
        make_run(tmp_path / f"r{number}", [number / 10])
    write_runs(tmp_path / "page.html", read_runs(tmp_path))
    assert "The best 8 of 10." in (tmp_path / "page.html").read_text("utf-8")


def test_a_folder_without_runs_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match="holds no run"):
        read_runs(tmp_path)
    assert "Give FIRST, SECOND and DATA" in CliRunner().invoke(main, ["compare"]).output

"""Plots are PNG files; that they look good was seen by eye."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pupila.evaluation.metrics import reliability
from pupila.evaluation.pages.plots import plot_confusion, plot_curves, plot_reliability, plot_runs, plot_sweep


def curve_rows(epochs):
    return [
        {"epoch": e, "train_loss": 2 / e, "train_accuracy": 1 - 1 / (e + 1), "validation_accuracy": 1 - 1.2 / (e + 1)}
        for e in range(1, epochs + 1)
    ]


def size_of(png):
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize("epochs", [0, 1, 12])
def test_curves_are_drawn_for_any_number_of_epochs(epochs):
    assert size_of(plot_curves(curve_rows(epochs))) == (1080, 456)


def test_the_kept_epoch_and_a_change_of_size_are_marked():
    rows = [{**row, "network_size": 48 if row["epoch"] < 5 else 96, "validation_loss": 1.0} for row in curve_rows(8)]
    plain = [{**row, "network_size": 48} for row in rows]
    pictures = []
    for drawn, kept in [(plain, None), (rows, None), (rows, 6)]:
        pictures.append(plot_curves(drawn, kept))
    assert len(set(pictures)) == 3


def test_a_sweep_has_a_panel_for_each_setting_and_a_line_for_each_kind_of_weights():
    runs = [curve_rows(5), curve_rows(3)]
    groups = {f"lr={n}, weights={w}": runs for n in range(4) for w in ("none", "bundled")}
    (small, _), (large, tall) = size_of(plot_sweep(dict(list(groups.items())[:2]))), size_of(plot_sweep(groups))
    assert large > 2 * small
    assert tall > 700


def test_dollars_in_names_are_no_formulas():
    rows = [{**row, "seconds": 60.0 * row["epoch"]} for row in curve_rows(3)]
    name = r"cost $\nothing$"
    assert size_of(plot_runs({name: rows}))
    assert size_of(plot_sweep({f"{name}, weights={name}.pth": [rows]}))
    assert size_of(plot_confusion(np.eye(2, dtype=np.int64), [name, "b"]))


def test_curves_with_a_loss_that_is_not_finite_are_drawn():
    assert size_of(plot_curves([*curve_rows(2), {**curve_rows(3)[2], "train_loss": float("nan")}]))


def test_reliability_is_drawn_before_and_after():
    logits, labels = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 4
    assert size_of(plot_reliability(reliability(logits, labels), reliability(logits, labels, 2.0), 2.0))


@pytest.mark.parametrize("count", [2, 10, 40])
def test_confusion_matrix_gives_each_class_room(count):
    assert size_of(plot_confusion(np.eye(count, dtype=np.int64), [f"class {i}" for i in range(count)]))[0] >= 12 * count


def test_confusion_matrix_of_a_thousand_classes_stays_small():
    assert size_of(plot_confusion(np.eye(1000, dtype=np.int64), [f"class {i}" for i in range(1000)]))[0] < 2000


def test_class_names_are_drawn_as_they_are_in_any_script():
    names = ["$x^2", "猫", "a_very_long_name_" * 9, "{\\frac}"]
    assert size_of(plot_confusion(np.eye(4, dtype=np.int64), names))


def test_importing_the_plots_loads_no_matplotlib():
    code = (
        "import pupila.evaluation.pages.report, sys; sys.exit('matplotlib' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

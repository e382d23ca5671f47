"""The training benchmarks still fit the code that they measure: each side takes a few small steps."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from training_kit import TINY

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "training"))
import outside
import throughput

SMALL = replace(TINY, batch_size=8, network_size=32)


@pytest.mark.parametrize("source", [throughput.fixed, throughput.ours])
def test_throughput_measures_steps(source):
    assert throughput.trainer(SMALL, source(SMALL))() > 0


def test_half_of_the_classes_outside_the_ten_are_taught_and_none_of_the_ten():
    inside = [name for names in outside.AMONG_THE_TEN.values() for name in names]
    strangers = [f"n{number:08}" for number in range(90_000_000, 90_000_040)]
    taught = outside.taught_classes([*inside, *strangers])
    assert len(taught) == 20 and taught <= set(strangers)

"""Sweeps: many trainings of one data set, one table, one plot, and the best model. Trials are the ordinary `train`."""

from pupila.training.sweeps.definition import Definition, Trial, load_definition, shipped_sweeps
from pupila.training.sweeps.run import SweepSummary, run_sweep

__all__ = ["Definition", "SweepSummary", "Trial", "load_definition", "run_sweep", "shipped_sweeps"]

"""Labelled pictures: loading, splitting, checking."""

from pupila.data.dataset import Dataset, Skipped, Splits, held_out, sample, split
from pupila.data.load import load_dataset

__all__ = ["Dataset", "Skipped", "Splits", "held_out", "load_dataset", "sample", "split"]

"""Pictures and their labels: where they come from, and how they are cut into parts. Knows nothing of training."""

from pupila.data.dataset import Dataset
from pupila.data.load import load_dataset
from pupila.data.split import sample, split
from pupila.data.splits import Skipped, Splits

__all__ = ["Dataset", "Skipped", "Splits", "load_dataset", "sample", "split"]

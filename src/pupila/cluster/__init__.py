"""Work on more than one machine, through Ray: the same functions as on one.

connect.py   the connection with Ray; paths and printed lines of nodes
predict.py   pupila.batch's processes, on all nodes
train.py     pupila.training's workers, placed and watched by Ray Train
sweep.py     pupila.training.sweeps' trials, on all nodes, as tasks of Ray
serve.py     pupila.server's application as replicas of Ray Serve (retries.py: when one is lost)
"""

import importlib.util
import os

from pupila.errors import MissingExtraError

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report home otherwise
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # of what Ray would print on a terminal: all; its own logs have it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default warns of its own change
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else what a worker prints comes twice
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # in place of 60, for which it would wait for a node that is lost
}
"""Of Ray's own settings, where a person has not made them."""

NEEDED = ("ray", "pyarrow", "pandas", "fastapi", "starlette", "uvicorn", "requests")
"""What the extra brings; plain `pip install ray` leaves the rest out."""

if any(importlib.util.find_spec(name) is None for name in NEEDED):
    raise MissingExtraError("Working on a cluster", "cluster")
for _name, _value in SETTINGS.items():  # here, since Ray reads them when it is imported
    os.environ.setdefault(_name, _value)

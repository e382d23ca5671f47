"""Work on more than one machine, through Ray: the same functions as on one. The only room that knows Ray; kept thin.

    connect.py   from an address to a connection, which ends with the block
    predict.py   pupila.batch's processes, on all nodes, through Ray Data
    paths.py     paths that mean the same on every node
    lines.py     what is printed on a node, shown where the command was given
    train.py     pupila.training's workers, placed and watched by Ray Train
    sweep.py     pupila.training.sweeps' trials, on all nodes, by Ray Tune
    serve.py     pupila.server's application as replicas of Ray Serve (door.py: between its requests and ours)

No scheduler, no messages and no retries of our own: those are Ray's.
"""

import importlib.util

from pupila.errors import MissingExtraError

if importlib.util.find_spec("ray") is None:
    raise MissingExtraError("Working on a cluster", "cluster")

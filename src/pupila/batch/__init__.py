"""A model's answers to any number of picture files, as a table: on all cores, resumable, one row a file.

    listing.py   paths and folders -> every file, sorted, on disk     (spool.py: sorted records that need no memory)
    remote.py    the same for addresses like s3:// and http://, and reading from there
    job.py       the work folder beside the output: what was begun, with which model, on which files
    journal.py   one line an answered file, only ever appended to
    workers.py   a process a core, each decoding and running a session of its own (worker.py)
    table.py     answers -> csv, jsonl or parquet                     (kaggle.py: a submission)
    sorting.py   answers -> pictures copied or linked into a folder a class

Knows nothing of our HTTP API, training or labels.
"""

from pupila.batch.listing import files_below
from pupila.batch.run import predict_all
from pupila.batch.sorting import Sorting
from pupila.batch.summary import Summary

__all__ = ["Sorting", "Summary", "files_below", "predict_all"]

"""A model's answers to any number of picture files, as a table: on all cores, resumable, one row a file.

listing.py   paths and folders -> every file
remote.py    the same for addresses like s3:// and http://, and reading from there
job.py       an SQLite database beside the output: what was begun, every file, the answers so far
workers.py   a process a core, each decoding and running a session of its own (worker.py)
table.py     answers -> csv, jsonl or parquet                     (kaggle.py: a submission)
sorting.py   answers -> pictures copied or linked into a folder a class
"""

from pupila.batch.listing import files_below
from pupila.batch.run import predict_all
from pupila.batch.sorting import Sorting
from pupila.batch.summary import Summary

__all__ = ["Sorting", "Summary", "files_below", "predict_all"]

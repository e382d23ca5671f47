"""A model's answers to any number of picture files, as a table: on all cores, resumable, one row a file.

listing.py   paths, folders and addresses like s3:// -> every file
job.py       an SQLite database beside the output: what was begun, every file, the answers so far
worker.py    a process a core, each decoding and running a session of its own
table.py     answers -> csv, jsonl, parquet, or a submission to Kaggle
sorting.py   answers -> pictures copied or linked into a folder a class
run.py       one job from beginning to end
"""

from pupila.batch.listing import files_below
from pupila.batch.run import Summary, predict_all
from pupila.batch.sorting import Sorting

__all__ = ["Sorting", "Summary", "files_below", "predict_all"]

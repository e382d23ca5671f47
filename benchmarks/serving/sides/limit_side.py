"""The limit: decode, resize and session in a plain loop, no HTTP.

Prints [pictures a second, CPU ms a picture, median ms a picture].
"""

import json
import statistics
import sys
import time
from pathlib import Path

from pupila import images
from pupila.predictor import Predictor

predictor = Predictor.load(Path(sys.argv[1]))
data = Path(sys.argv[2]).read_bytes()
seconds = float(sys.argv[3])
size = predictor.manifest.input_size
for _ in range(50):
    predictor.predict(images.stack([images.decode(data, size)]))
cpu, started, spent = time.process_time(), time.perf_counter(), []
while time.perf_counter() - started < seconds:
    begun = time.perf_counter()
    predictor.predict(images.stack([images.decode(data, size)]))
    spent.append(time.perf_counter() - begun)
rate = len(spent) / (time.perf_counter() - started)
print(json.dumps([rate, 1000 * (time.process_time() - cpu) / len(spent), 1000 * statistics.median(spent)]))

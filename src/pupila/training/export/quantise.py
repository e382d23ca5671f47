"""From float32 to int8: static quantisation, calibrated on training pictures, one scale a channel."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from pupila.training.export.graph import HEAD_NODES

log = logging.getLogger("pupila.training")

CALIBRATION_PICTURES = 512
CALIBRATION_BATCH = 64


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        starts = range(0, len(pictures), CALIBRATION_BATCH)
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = iter(
            [{"images": pictures[start : start + CALIBRATION_BATCH]} for start in starts]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch, None after the last: the name and the contract are ONNX Runtime's."""
        return next(self._batches, None)


def int8(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> onnx.ModelProto | None:
    """Return a copy whose backbone computes in int8; pictures uint8 [N, H, W, 3] show the range of each activation.

    None, and a sentence, where int8 cannot hold the weights: a few of them are beyond all others, or not finite.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of the same trouble
            return _quantised(model, pictures)
    except (AssertionError, ValueError, RuntimeError) as error:
        log.info(f"int8 cannot hold these weights ({error}): float32 is kept.")
        return None


def _quantised(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the quantiser moves the weights of the model it is given into files of its own
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        with _quiet_root_logger():
            quantize_static(
                copy,
                path,
                _Reader(pictures[:CALIBRATION_PICTURES]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=list(HEAD_NODES),
                extra_options={"CalibMovingAverage": True},
            )
        return onnx.load(path)


class _quiet_root_logger:  # noqa: N801, used as a context like contextlib's own
    """The quantiser advises a pre-processing step, on the root logger, that this graph has no use for.

    Its first such message also gives that logger a handler, which would write every later line a second time.
    """

    def __enter__(self) -> None:
        root = logging.getLogger()
        self._level, self._handlers = root.level, list(root.handlers)
        root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.setLevel(self._level)
        root.handlers[:] = self._handlers

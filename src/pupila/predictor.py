"""A model file made callable: ONNX Runtime session + manifest -> predictions. Shared by CLI, server and evaluation.

Knows nothing of HTTP or training. A Predictor may be called from several threads at once.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError, ModelError
from pupila.images import DEFAULT_LIMITS, Gate, ImageLimits, Pixels, open_gate
from pupila.manifest import METADATA_KEY, Manifest, check_seal

GOLDEN_TOLERANCE = 0.05
"""Largest difference of a golden probability between machines: int8 kernels of different CPUs round differently."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """One class and the calibrated probability that it is the right one."""

    category: str
    category_index: int
    confidence: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture: its choices from the most probable on, as many as were asked for."""

    top: tuple[Choice, ...]
    unknown: bool
    """True if the picture looks like none of the classes; False too where the model has no threshold for it."""

    @property
    def best(self) -> Choice:
        """The most probable class."""
        return self.top[0]


@dataclass(frozen=True)
class Outputs:
    """Raw outputs of the graph for N pictures: logits [N, K], features [N, 512], cam [N, K, h, w], all float32."""

    logits: Floats
    features: Floats
    cam: Floats


class Predictor:
    """A model file, verified and ready."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest, version: str) -> None:
        self._session = session
        self._options = ort.RunOptions()
        self._options.only_execute_path_to_fetches = True  # class activation maps cost nothing unless asked for
        self.manifest = manifest
        self.version = version
        """First 12 hex digits of the file's SHA-256: names this exact file in answers, logs and metrics."""

    @classmethod
    def load(cls, path: Path, threads: int = 1) -> "Predictor":
        """Read and verify a model file: its manifest, then its golden set. `threads` is for one call's computation.

        Raises ModelError if the file is missing, truncated, foreign, or answers its golden set differently.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be read ({error.strerror}). Give the path of a .onnx model file."
            ) from error
        try:
            predictor = cls.from_bytes(data, threads)
            predictor.check_golden()
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        return predictor

    @classmethod
    def from_bytes(cls, data: bytes, threads: int = 1) -> "Predictor":
        """Read a model file's content without checking its golden set: for the exporter, which has yet to make one.

        Raises ModelError if a byte of a sealed file was changed, or if it is no model file.
        """
        seal = check_seal(data)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise ModelError("It is damaged or not an ONNX file. Export or copy the model again.") from error
        manifest_json = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if manifest_json is None:
            raise ModelError("It is an ONNX file without Pupila's manifest. Make one with: pupila train")
        manifest = Manifest.from_json(manifest_json)
        if manifest.sha256 != seal:
            raise ModelError("The seal in its manifest is damaged. Copy or export the model again.")
        _check_shapes(session, manifest)
        return cls(session, manifest, hashlib.sha256(data).hexdigest()[:12])

    def check_golden(self) -> float:
        """Answer the golden set and return the largest difference of a probability; above the tolerance: ModelError."""
        golden = self.manifest.golden
        if not golden:
            raise ModelError("The model has no golden set, so it cannot be verified. Export it again.")
        size = self.manifest.input_size
        pictures = images.stack([images.decode(base64.b64decode(g.png), size) for g in golden])
        expected = self.probabilities(np.asarray([g.logits for g in golden], dtype=np.float32))
        difference = float(np.abs(self.probabilities(self.logits(pictures)) - expected).max())
        if not difference <= GOLDEN_TOLERANCE:
            raise ModelError(
                f"The model answers its golden set differently (by {difference:.3f}): the file is damaged. "
                "Copy or export it again."
            )
        return difference

    def decode(self, source: bytes | Path, limits: ImageLimits = DEFAULT_LIMITS, gate: Gate = open_gate) -> Pixels:
        """Return a picture file as the graph takes it, uint8 [H, W, 3]; raises as images.decode() does.

        The one place where a model's size and framing meet a picture: serving, batch and evaluation decode here.
        """
        return images.decode(source, self.manifest.input_size, limits, self.manifest.framing, gate)

    def logits(self, pictures: NDArray[np.uint8]) -> Floats:
        """Return float32 [N, K] for uint8 [N, H, W, 3], H = W = manifest.input_size."""
        return self._run(["logits"], pictures)[0]

    def outputs(self, pictures: NDArray[np.uint8]) -> Outputs:
        """Return logits, features and class activation maps for uint8 [N, H, W, 3]."""
        return Outputs(*self._run(["logits", "features", "cam"], pictures))

    def probabilities(self, logits: Floats) -> Floats:
        """Return calibrated probabilities [N, K]: the softmax of logits / temperature."""
        return self._judge(logits)[0]

    def unknown_scores(self, logits: Floats) -> Floats:
        """Return [N], higher for pictures less like the training data: the energy -T log sum exp(logits / T).

        Liu et al., "Energy-based Out-of-distribution Detection", 2020.
        """
        return self._judge(logits)[1]

    def predict(self, pictures: NDArray[np.uint8], top: int = 1) -> list[Prediction]:
        """Return one Prediction a picture, in order, each with min(top, K) choices."""
        return self.interpret(self.logits(pictures), top)

    def interpret(self, logits: Floats, top: int = 1) -> list[Prediction]:
        """Turn logits [N, K] into N predictions."""
        threshold = self.manifest.unknown_threshold
        probabilities, scores = self._judge(logits)
        unknown = scores > (np.inf if threshold is None else threshold)
        if top <= 1:
            order = probabilities.argmax(axis=1)[:, np.newaxis]
        else:
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        classes = self.manifest.classes
        return [
            Prediction(tuple(Choice(classes[i], i, float(row[i])) for i in best), u)
            for row, best, u in zip(probabilities, order.tolist(), unknown.tolist(), strict=True)
        ]

    def _judge(self, logits: Floats) -> tuple[Floats, Floats]:
        """Return probabilities [N, K] and energies [N], which share their exponentials."""
        temperature = self.manifest.temperature
        peak = logits.max(axis=1, keepdims=True)
        exponents = np.exp((logits - peak) / temperature)
        total = exponents.sum(axis=1, keepdims=True)
        energies = -peak - temperature * np.log(total)
        return np.asarray(exponents / total, dtype=np.float32), np.asarray(energies[:, 0], dtype=np.float32)

    def _run(self, names: Sequence[str], pictures: NDArray[np.uint8]) -> list[Floats]:
        size = self.manifest.input_size
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3):
            raise ValueError(f"Expected uint8 [N, {size}, {size}, 3], got {pictures.dtype} {list(pictures.shape)}.")
        outputs: list[Floats] = self._session.run(names, {"images": pictures}, self._options)
        return outputs


def _check_shapes(session: ort.InferenceSession, manifest: Manifest) -> None:
    """Raise ModelError unless the graph takes and gives what the manifest says."""
    inputs = {value.name: value.shape[1:] for value in session.get_inputs()}
    outputs = {value.name: value.shape[1:2] for value in session.get_outputs()}
    size, classes = manifest.input_size, len(manifest.classes)
    if inputs != {"images": [size, size, 3]} or outputs.get("logits") != [classes] or "features" not in outputs:
        raise ModelError("Its graph is not the one that its manifest describes. Export or copy the model again.")


def predict_files(
    predictor: Predictor, paths: Sequence[Path], top: int = 1
) -> Iterator[tuple[Path, Prediction | ImageError]]:
    """Yield each path with its prediction, or with the reason why the picture could not be read."""
    for path in paths:
        try:
            pixels = predictor.decode(path)
        except ImageError as error:
            yield path, error
        except OSError as error:
            yield path, ImageError("image_unrecognised", f"It cannot be read ({error.strerror}). Check the path.")
        else:
            yield path, predictor.predict(pixels[np.newaxis], top)[0]

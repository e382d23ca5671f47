"""Loads and runs a model file: ONNX Runtime session + manifest -> predictions. Shared by CLI, server and evaluation.

A Predictor may be called from several threads at once.
"""

import base64
import ctypes
import functools
import hashlib
import itertools
import math
import mmap
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pupila import images
from pupila._arguments import PathLike, as_path, check_top, name_of, one_picture, several
from pupila.errors import ImageError, ModelError
from pupila.images import DEFAULT_LIMITS, ImageLimits, PilImage, Pixels
from pupila.manifest import METADATA_KEY, Manifest, check_seal
from pupila.model_file import cost, reader
from pupila.prediction import Choice, Prediction

GOLDEN_TOLERANCE = 0.05
"""Largest difference of a golden probability between machines: int8 kernels of different CPUs round differently."""

BATCH = 32
"""Pictures of a list that are computed together."""

GOLDEN_BYTES = 2**20
"""Bytes of a golden picture at most."""
SLOWEST, GIVEN_UP = 5.0, 30.0
"""Seconds of a thread's processor time that a picture may take, and by the clock after which the first one is given up.
Its cost is counted beforehand; this is for what ONNX Runtime makes of the graph. The largest recipe takes about 1."""
MOST_MEMORY, COPIES = 2**30, 3
"""Bytes by which the process may grow for a picture, and for those that are computed together: four for each number
that may be in memory at once, and much again for what ONNX Runtime makes of the graph; and how many times its own size
a file may take beside that, while it is loaded."""
TOGETHER_SECONDS = 1.0
"""What one call should take at most, so that deadlines are looked at between two."""
MAX_MAP = 64
"""Numbers a side of a class activation map: each is written into the answer."""
MAX_MAPS, MAX_FEATURES = 2**23, 4096
"""Numbers of all maps of a picture, and its features: those of several pictures are in memory together."""
DENORMAL_BITS = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
"""By processor: where the control register lies in fenv_t of glibc and musl, and its bits that flush."""
FENV_BYTES = 64
"""More than fenv_t has."""
PNG = b"\x89PNG\r\n\x1a\n"

Floats = NDArray[np.float32]
Decoder = Callable[[Any, int, ImageLimits, str], Pixels]
Picture = PathLike | bytes | IO[bytes] | PilImage | NDArray[np.uint8]
"""What predict() takes for one picture; an array is uint8 [H, W, 3], RGB, of any size."""


@dataclass(frozen=True)
class Outputs:
    """Raw outputs of the graph for N pictures, all float32."""

    scores: Floats
    """[N, K + 1]: logits and, last, the unknown score."""
    features: Floats
    """[N, 512]"""
    cam: Floats
    """[N, h, w]: the class activation map of the class that is answered."""

    @property
    def logits(self) -> Floats:
        """[N, K]."""
        return self.scores[:, :-1]


class Predictor:
    """A model file, verified and ready."""

    def __init__(
        self,
        session: ort.InferenceSession,
        manifest: Manifest,
        version: str,
        together: int,
        shapes: Mapping[str, cost.Shape],
    ) -> None:
        self._session = session
        self.together = together
        """Pictures that are computed together at most, so that memory stays within cost.MAX_TOGETHER."""
        self.at_once = together
        """Pictures that should be computed in one call where others wait: those that take some TOGETHER_SECONDS."""
        self.seconds = 0.0
        """Of processor time that a picture has taken in a thread; 0 before the golden set was answered."""
        self._unknown = [] if manifest.unknown_score == "energy" else ["unknown"]
        self._options = _run_options()
        self.manifest = manifest
        self.version = version
        """First 12 hex digits of the file's SHA-256: names this exact file in answers, logs and metrics."""
        self._shapes = shapes
        self.map_size = math.prod(shapes["cam"][2:])
        """Numbers of the class activation map of a picture."""
        self.feature_size = shapes["features"][1]
        """Features of a picture."""

    @classmethod
    def load(cls, path: PathLike, threads: int = 1) -> "Predictor":
        """Read and verify a model file: its manifest, then its golden set. `threads` is for one call's computation.

        Raises ModelError if the file is missing, truncated, foreign, or answers its golden set differently.
        """
        path = as_path(path, "A model file")
        data = reader.read_bytes(path)
        try:
            predictor = cls.from_bytes(data, threads)
            predictor.check_golden()
        except ModelError as error:
            raise ModelError(error.reason, path) from error
        return predictor

    @classmethod
    def from_bytes(cls, data: bytes, threads: int = 1) -> "Predictor":
        """Read a model file's content without checking its golden set: for the exporter, which has yet to make one.

        Raises ModelError if a byte of a sealed file was changed, or if it is no model file.
        """
        try:
            seal = check_seal(data)
            graph = reader.read_graph(data)
            if METADATA_KEY not in graph.metadata:
                raise ModelError("It is an ONNX file without Pupila's manifest. Make one with: pupila train")
            manifest = Manifest.from_json(graph.metadata[METADATA_KEY])
            if manifest.sha256 != seal:
                raise ModelError("The seal in its manifest is damaged. Copy or export the model again.")
            needed = cost.check(graph)
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4
            options.add_session_config_entry("session.set_denormal_as_zero", "1")  # in its own threads
            options.add_session_config_entry("session.strict_shape_type_inference", "1")  # no false value_info
            options.add_session_config_entry("session.x64quantprecision", "1")  # exact int8 sums on CPUs without VNNI
            # else bytes that are both would be taken for ONNX Runtime's own format, which nothing here has checked
            options.add_session_config_entry("session.load_model_format", "ONNX")
            before = _resident()
            with flushing_denormals():
                session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            if _resident() - before > COPIES * len(data) + MOST_MEMORY:
                raise ModelError(f"It takes more than {MOST_MEMORY >> 20:,} MiB beside its size. Export it again.")
            _check_shapes(session, manifest, needed.outputs)
            version, together = hashlib.sha256(data).hexdigest()[:12], cost.MAX_TOGETHER // needed.numbers
            return cls(session, manifest, version, together, needed.outputs)
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime has a dozen types of its own, and what a file holds may be anything
            reason = f"It is damaged or not an ONNX file ({type(error).__name__}). Export or copy the model again."
            raise ModelError(reason) from error

    def check_golden(self) -> float:
        """Answer the golden set and return the largest difference of a probability; above the tolerance: ModelError."""
        golden = self.manifest.golden
        if not golden:
            raise ModelError("The model has no golden set, so it cannot be verified. Export it again.")
        pictures = images.stack([self._golden_picture(number, picture.png) for number, picture in enumerate(golden)])
        expected = self.probabilities(np.asarray([g.logits for g in golden], dtype=np.float32))
        try:
            self._check_outputs(pictures[:1])
            logits = self.logits(pictures)
        except ModelError:
            raise
        except Exception as error:  # of ONNX Runtime's own types
            raise ModelError("The model cannot answer its golden set: it is damaged. Export it again.") from error
        difference = float(np.abs(self.probabilities(logits) - expected).max())
        if not difference <= GOLDEN_TOLERANCE:
            raise ModelError(
                f"The model answers its golden set differently (by {difference:.3f}): the file is damaged. "
                "Copy or export it again."
            )
        return difference

    def _check_outputs(self, picture: NDArray[np.uint8]) -> None:
        """Raise ModelError unless every output has the shape that its cost was counted with: a row a picture."""
        names = ["logits", "features", "cam", *self._unknown]
        self._check_time(names, picture)
        outputs = [*self._run(names, picture), *self._run(names, np.concatenate([picture, ~picture]))]
        for name, count, found in zip(2 * names, [1] * len(names) + [2] * len(names), outputs, strict=True):
            if found.shape != (count, *self._shapes[name][1:]):
                raise ModelError(f"It gives {name} of another shape than its graph says. Export or copy it again.")

    def _check_time(self, names: Sequence[str], picture: NDArray[np.uint8]) -> None:
        """Raise ModelError if a picture takes much longer than its cost was counted as, or more memory.

        What ONNX Runtime has taken it keeps for the next picture.
        """
        options = _run_options()
        watch = threading.Timer(GIVEN_UP, setattr, (options, "terminate", True))
        watch.daemon = True
        begun, slow, before = time.thread_time(), False, _resident()
        watch.start()
        try:
            with flushing_denormals():
                self._session.run(names, {"images": picture}, options)
            self.seconds = time.thread_time() - begun
            slow = self.seconds > SLOWEST
        except Exception:  # ONNX Runtime says in a type of its own that it was ended
            if not options.terminate:
                raise
            slow = True
        finally:
            watch.cancel()
        if slow:
            raise ModelError(f"It takes more than {SLOWEST:g} s for a picture. Export or copy the model again.")
        if (grown := _resident() - before) > MOST_MEMORY:
            raise ModelError(f"It takes more than {MOST_MEMORY >> 20:,} MiB for a picture. Export or copy it again.")
        self.together = max(1, min(self.together, MOST_MEMORY // max(grown, 1)))
        self.at_once = max(1, min(self.together, int(TOGETHER_SECONDS / max(self.seconds, 1e-9))))

    def _golden_picture(self, number: int, png: str) -> Pixels:
        size = self.manifest.input_size
        try:
            data = base64.b64decode(png, validate=True)
            if not data.startswith(PNG) or len(data) > GOLDEN_BYTES:
                raise ValueError("another format")
            header = images.header(data)
            if (header.width, header.height) != (size, size):
                raise ValueError("another size")
            return images.decode(data, size)
        except (ImageError, ValueError) as error:
            raise ModelError(f"Its golden picture {number} is no PNG of {size} x {size}. Export it again.") from error

    def decode(self, source: bytes | Path, limits: ImageLimits = DEFAULT_LIMITS, by: Decoder = images.decode) -> Pixels:
        """Return a picture file as the graph takes it, uint8 [H, W, 3]; raises as images.decode() does.

        The one place where a model's size and framing meet a picture: serving, batch and evaluation decode here. `by`
        is called as images.decode() is, for callers who decode elsewhere or under conditions.
        """
        return by(source, self.manifest.input_size, limits, self.manifest.framing)

    def logits(self, pictures: NDArray[np.uint8]) -> Floats:
        """Return float32 [N, K] for uint8 [N, H, W, 3], H = W = manifest.input_size."""
        return self._run(["logits"], pictures)[0]

    def scores(self, pictures: NDArray[np.uint8]) -> Floats:
        """Return float32 [N, K + 1]: logits and, last, the unknown score, which interpret() takes."""
        return self._scored(*self._run(["logits", *self._unknown], pictures))

    def features(self, pictures: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return logits [N, K] and features [N, 512] for uint8 [N, H, W, 3]."""
        logits, features = self._run(["logits", "features"], pictures)
        return logits, features

    def outputs(self, pictures: NDArray[np.uint8]) -> Outputs:
        """Return scores, features and class activation maps for uint8 [N, H, W, 3]."""
        parts = [self._answered(part) for part in self._parts(pictures)]
        return Outputs(*map(np.concatenate, zip(*parts, strict=True)))

    def _answered(self, pictures: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats]:
        """Return scores, features and the map of the answered class: the maps of all classes are gone then."""
        features, cam, *scores = self._run(["features", "cam", "logits", *self._unknown], pictures)
        scored = self._scored(*scores)
        best = self.probabilities(scored[:, :-1]).argmax(axis=1)
        return scored, features, finite(cam[np.arange(len(best)), best])

    def _scored(self, logits: Floats, unknown: Floats | None = None) -> Floats:
        """Put the unknown score behind the logits: the graph's, or in files without that output the energy."""
        score = self._judge(finite(logits))[1] if unknown is None else unknown
        return finite(np.column_stack([logits, score]).astype(np.float32, copy=False))

    def probabilities(self, logits: Floats) -> Floats:
        """Return calibrated probabilities [N, K]: the softmax of logits / temperature."""
        return self._judge(logits)[0]

    @overload
    def predict(self, pictures: Picture, top: int = 1, explain: bool = False) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, pictures: Iterable[Picture], top: int = 1, explain: bool = False) -> list[Prediction]: ...
    def predict(
        self, pictures: Picture | Iterable[Picture], top: int = 1, explain: bool = False
    ) -> Prediction | list[Prediction]:
        """Return the Prediction for one picture, or a list of them in order for a list of pictures.

        A picture is a path, the bytes of a picture file, a file open for reading bytes, a PIL image, or a uint8 array
        [H, W, 3], RGB, of any size. top: how many of the most probable classes `Prediction.top` lists. explain: fill
        `Prediction.explanation`. Raises ImageError, which names the picture, if one cannot be used; TypeError if it is
        nothing of the kind; ModelError if the model gives no numbers for one.
        """
        check_top(top)
        many = several(pictures)
        if many is None:
            return self._predict([self._pixels(pictures, None)], top, explain)[0]
        found: list[Prediction] = []
        numbered = enumerate(many)
        while part := list(itertools.islice(numbered, BATCH)):
            found += self._predict([self._pixels(picture, place) for place, picture in part], top, explain)
        return found

    def _pixels(self, picture: Any, place: int | None) -> Pixels:
        """Return one picture as the graph takes it; raises ImageError with the picture's name."""
        source, size, framing = one_picture(picture), self.manifest.input_size, self.manifest.framing
        name = name_of(picture, place)
        try:
            if isinstance(source, bytes | Path):
                return self.decode(source)
            return images.decode_image(source, size, framing=framing)
        except ImageError as error:
            raise (error.of(name) if name else error) from None
        except (OSError, ValueError) as error:
            raise ImageError.unreadable(error).of(name) from error

    def _predict(self, pictures: Sequence[Pixels], top: int, explain: bool) -> list[Prediction]:
        batch = images.stack(pictures)
        if not explain:
            return self.interpret(self.scores(batch), top)
        outputs = self.outputs(batch)
        return self.interpret(outputs.scores, top, outputs.cam)

    def interpret(self, scores: Floats, top: int = 1, maps: Iterable[Floats] | None = None) -> list[Prediction]:
        """Turn scores [N, K + 1], see scores(), into N predictions, with explanations if there are maps [h, w]."""
        if scores.shape[1] != len(self.manifest.classes) + 1:
            raise ValueError(f"Expected scores [N, {len(self.manifest.classes) + 1}], got {list(scores.shape)}.")
        threshold = self.manifest.unknown_threshold
        probabilities, _ = self._judge(scores[:, :-1])
        unknown = scores[:, -1] > (np.inf if threshold is None else threshold)
        if top <= 1:
            order = probabilities.argmax(axis=1)[:, np.newaxis]
        else:
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        classes = self.manifest.classes
        explained: Sequence[tuple[tuple[float, ...], ...] | None] = [None] * len(scores)
        if maps is not None:
            explained = list(map(heat_map, maps))
        return [
            Prediction(tuple(Choice(classes[i], i, float(row[i])) for i in best), u, heat)
            for row, best, u, heat in zip(probabilities, order.tolist(), unknown.tolist(), explained, strict=True)
        ]

    def _judge(self, logits: Floats) -> tuple[Floats, Floats]:
        """Return probabilities [N, K] and energies [N], which share their exponentials."""
        temperature = self.manifest.temperature
        peak = logits.max(axis=1, keepdims=True)
        exponents = np.exp((logits - peak) / temperature)
        total = exponents.sum(axis=1, keepdims=True)
        energies = -peak - temperature * np.log(total)
        return np.asarray(exponents / total, dtype=np.float32), np.asarray(energies[:, 0], dtype=np.float32)

    def _parts(self, pictures: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures in parts of `together`, which fit into memory; of no pictures, one empty part."""
        for start in range(0, max(len(pictures), 1), self.together):
            yield pictures[start : start + self.together]

    def _run(self, names: Sequence[str], pictures: NDArray[np.uint8]) -> list[Floats]:
        size = self.manifest.input_size
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3):
            raise ValueError(f"Expected uint8 [N, {size}, {size}, 3], got {pictures.dtype} {list(pictures.shape)}.")
        with flushing_denormals():
            parts = [self._session.run(names, {"images": part}, self._options) for part in self._parts(pictures)]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]


def _resident() -> int:
    """Return the bytes of this process that are in memory; 0 where Linux does not say so."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.only_execute_path_to_fetches = True  # class activation maps cost nothing unless asked for
    return options


def _check_shapes(session: ort.InferenceSession, manifest: Manifest, outputs: Mapping[str, cost.Shape]) -> None:
    """Raise ModelError unless the graph takes and gives what the manifest says: a row a picture."""
    inputs = {value.name: value.shape[1:] for value in session.get_inputs()}
    given = {value.name: value.shape[1:2] for value in session.get_outputs()}
    size, classes, maps = manifest.input_size, len(manifest.classes), outputs.get("cam", ())
    features = outputs.get("features", ())[1:2]
    wanted = {"logits": (1, classes), "features": (1, *features)}
    wanted |= {} if manifest.unknown_score == "energy" else {"unknown": (1,)}
    right = all(outputs.get(name) == shape for name, shape in wanted.items()) and sum(features) <= MAX_FEATURES
    explained = len(maps) == 4 and maps[:2] == (1, classes) and max(maps[2:]) <= MAX_MAP
    explained = explained and math.prod(maps) <= MAX_MAPS
    taken = inputs == {"images": [size, size, 3]}
    if not taken or not right or not explained or given["logits"] != [classes]:
        raise ModelError("Its graph is not the one that its manifest describes. Export or copy the model again.")


def finite(numbers: Floats) -> Floats:
    """Return what the graph gave for pictures; raises ModelError if not all of it are numbers, and finite ones."""
    if not np.isfinite(numbers).all():
        raise ModelError("The model gives no numbers for this picture: it is damaged. Export or copy it again.")
    return numbers


def heat_map(cam: Floats) -> tuple[tuple[float, ...], ...]:
    """Return a class activation map [h, w] scaled to 0 to 1: rows from top to bottom, over the whole picture.

    Zhou et al., "Learning Deep Features for Discriminative Localization", 2016.
    """
    low, high = float(cam.min()), float(cam.max())
    scaled = (cam.astype(np.float64) - low) / (high - low) if high > low else np.zeros_like(cam)
    return tuple(tuple(round(float(value), 3) for value in row) for row in scaled)


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Count numbers that nearly vanish as zero in this thread and those that it starts; on Linux only. Takes 5 us.

    With such numbers a CPU takes 100 times as long, and a model file of a stranger may hold nothing else. The bit for
    it is set in the C library's floating-point environment and put back: what the caller computes stays as it is.
    """
    library, (offset, bits) = _c_library()
    if library is None:
        yield
        return
    before = ctypes.create_string_buffer(FENV_BYTES)
    library.fegetenv(before)
    flushing = ctypes.create_string_buffer(before.raw)
    struct.pack_into("<I", flushing, offset, struct.unpack_from("<I", before, offset)[0] | bits)
    library.fesetenv(flushing)
    try:
        yield
    finally:
        library.fesetenv(before)


@functools.cache
def _c_library() -> tuple[ctypes.PyDLL | None, tuple[int, int]]:
    known = sys.platform == "linux" and platform.machine() in DENORMAL_BITS
    return (ctypes.PyDLL(None), DENORMAL_BITS[platform.machine()]) if known else (None, (0, 0))

"""The metadata in a model file: JSON in one ONNX metadata property, read strictly, since model files are not trusted.

Its seal too: the SHA-256 over the whole file is a field of the manifest, counted while the field holds zeros.
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pupila.errors import ModelError

FORMAT_VERSION = 2
READABLE = (1, 2)
"""Version 1 has no framing, no seal and no unknown score but the energy: the fields' defaults."""
FRAMINGS = ("squash", "letterbox")
UNKNOWN_SCORES = ("energy", "energy_and_distance")
UNSEALED = "0" * 64
SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')
SEAL_BYTES = 75
"""Of what SEAL matches."""
SEARCHED_BYTES = 2**20
"""Of a file, for the seal, at a stretch."""
METADATA_KEY = "pupila.manifest"
MAX_JSON_BYTES = 4 * 2**20
MAX_VALUES = 500_000
"""Brackets and commas of it: a list of nothing but empty tables takes 100 MiB."""
MAX_DEPTH = 20
"""Tables and lists within each other: what Pupila writes has four, and who copies or shows more runs out of calls."""
MAX_TEXT = 1_000
"""Letters of a name."""
MAX_CLASSES = 20_000
MAX_SIZE = 1_024
"""Pixels a side."""
MAX_GOLDEN = 4
"""Golden pictures."""
MAX_WHOLE = 2**53
"""Of numbers of pictures, epochs and draws: what JSON's readers hold exactly."""
MAX_QUANTILES, MAX_ANSWERS = 1_000, 400_000_000
"""Of the reference: confidences, and pictures, as NumPy deals out a thousand million counts at most."""


@dataclass(frozen=True)
class GoldenPicture:
    """One input and the logits it must give: re-computed at every load, so that a damaged file refuses to serve."""

    png: str
    """Base64 of a PNG of input_size x input_size pixels."""
    logits: tuple[float, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything about a model but its weights. Metrics are fractions in 0 to 1 unless their name says otherwise."""

    name: str
    classes: tuple[str, ...]
    input_size: int
    """Pixels a side of the `images` input: uint8 [N, input_size, input_size, 3]."""
    network_size: int
    """Pixels a side that the network works at; the enlargement is inside the graph."""
    precision: str
    """Of the weights and activations in the file: float32 or int8; float16 in files of earlier versions."""
    weights: str
    """What training started from: none, imagenet, or a file's name and hash."""
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    """Source, fingerprint and number of pictures of each split."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    """Logits are divided by it before the softmax (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
    unknown_threshold: float | None = None
    """A picture whose unknown score is above it is none of the classes; None where no threshold was fitted."""
    framing: str = "squash"
    """How a photo that is not square is made so before the graph: squash or letterbox, see pupila.images."""
    unknown_score: str = "energy"
    """Which score is compared with the threshold: of the logits, or the graph's output `unknown`."""
    sha256: str = ""
    """SHA-256, hex, of the file as it is with 64 zeros here; empty in a file that is not sealed."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """How sure its answers are on pictures as they should be, and which: see evaluation.drift. Empty: not measured."""
    versions: Mapping[str, str] = field(default_factory=dict)
    golden: tuple[GoldenPicture, ...] = ()
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the manifest as one line of JSON, keys sorted, so that equal manifests are equal bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read a manifest; raises ModelError if it is too long, not JSON, of another version, or lacks a field."""
        if len(text) > MAX_JSON_BYTES:
            raise ModelError(f"The model's manifest has {len(text):,} bytes, over the limit of {MAX_JSON_BYTES:,}.")
        try:
            if sum(map(text.count, "{[,")) > MAX_VALUES:
                raise ValueError
            fields = json.loads(text, parse_constant=_refuse_constant)
            _check_depth(fields)
            # Half a surrogate pair is no text, 1e999 no number in JSON: who shows one would fail.
            json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
            version = fields["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError("The model's manifest is not one that Pupila wrote. Export the model again.") from error
        if type(version) is not int or version not in READABLE:
            raise ModelError(
                f"The model has format version {str(version)[:20]}; this Pupila reads {FORMAT_VERSION}. Upgrade Pupila."
            )
        try:
            pictures = _list(fields.pop("golden"), MAX_GOLDEN)
            golden = tuple(GoldenPicture(g["png"], tuple(_list(g["logits"], MAX_CLASSES))) for g in pictures)
            classes = tuple(_list(fields["classes"], MAX_CLASSES))
            manifest = cls(**{**fields, "classes": classes, "golden": golden})
        except (KeyError, TypeError) as error:
            raise ModelError(
                f"The model's manifest is incomplete ({str(error)[:200]}). Export the model again."
            ) from error
        wrong = _wrong(manifest)
        if wrong:
            raise ModelError(f"The model's manifest has no valid {wrong}. Export the model again.")
        if len(set(manifest.classes)) != len(manifest.classes) or not manifest.temperature > 0:
            raise ModelError("The model's manifest repeats a class or has no temperature. Export the model again.")
        if manifest.framing not in FRAMINGS or manifest.unknown_score not in UNKNOWN_SCORES:
            raise ModelError(
                f"The model's framing is {manifest.framing!r} and its unknown score {manifest.unknown_score!r}; this "
                "Pupila does not know both. Upgrade Pupila."
            )
        return manifest

    def without_golden(self) -> dict[str, Any]:
        """Return what a person wants to read: all but the golden pictures, which their number replaces.

        Of the reference, too, the long list of quantiles is left out.
        """
        reference = {name: value for name, value in self.reference.items() if name != "confidence"}
        return {
            **dataclasses.asdict(dataclasses.replace(self, golden=())),
            "golden": len(self.golden),
            "reference": reference,
        }


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check_depth(fields: Any) -> None:
    """Raise ValueError if tables and lists lie deeper within each other than MAX_DEPTH."""
    level = [fields]
    for _ in range(MAX_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for values in inner for one in values]
    if any(isinstance(one, dict | list) for one in level):
        raise ValueError


def _list(value: Any, most: int) -> list[Any]:
    """Return a list of at most so many values; raises TypeError for anything else: letters of a text are none."""
    if not isinstance(value, list) or len(value) > most:
        raise TypeError(f"a list of up to {most:,} is something else")
    return value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_WHOLE


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_number, value))


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_number, value.values()))


def _is_added(value: Any) -> bool:
    return isinstance(value, dict) and _is_whole(value.get("pictures")) and _is_text(value.get("fingerprint"))


def _is_teacher(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("version"))


TABLES: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "recipe": {
        "name": _is_text, "minutes": _number, "epochs": _is_whole, "seed": _is_whole, "sample": _is_whole,
        "validation_fraction": _number,
    },
    "data": {
        "source": _is_text, "fingerprint": _is_text, "train": _is_whole, "validation": _is_whole, "test": _is_whole,
        "feedback": _is_added, "outliers": _is_added, "teacher": _is_teacher,
    },
    "metrics": {
        "accuracy": _number, "interval": _is_interval, "n": _is_whole, "split": _is_text, "ece": _number,
        "marked_unknown": _are_numbers,
    },
    "versions": {},
}  # fmt: skip
"""What is read of the tables, where it is there, and whether it is of its type."""


def _wrong(manifest: Manifest) -> str:
    """Return the first field that is not of its type and size; nothing if all are."""
    texts = ("name", "precision", "weights", "framing", "unknown_score", "sha256")
    fields = vars(manifest)
    valid = {
        **{name: isinstance(fields[name], str) and len(fields[name]) <= MAX_TEXT for name in texts},
        **{name: isinstance(fields[name], dict) for name in TABLES},
        **{
            f"{name}.{key}": is_right(fields[name][key])
            for name, keys in TABLES.items()
            for key, is_right in keys.items()
            if isinstance(fields[name], dict) and key in fields[name]
        },
        "versions": isinstance(manifest.versions, dict) and all(map(_is_text, manifest.versions.values())),
        "classes": 0 < len(manifest.classes) <= MAX_CLASSES
        and all(isinstance(name, str) and 0 < len(name) <= MAX_TEXT for name in manifest.classes),
        "input_size": type(manifest.input_size) is int and 1 <= manifest.input_size <= MAX_SIZE,
        "network_size": type(manifest.network_size) is int and 1 <= manifest.network_size <= MAX_SIZE,
        "temperature": _number(manifest.temperature),
        "unknown_threshold": manifest.unknown_threshold is None or _number(manifest.unknown_threshold),
        "reference": _is_reference(manifest.reference, len(manifest.classes)),
        "golden": len(manifest.golden) <= MAX_GOLDEN
        and all(
            isinstance(one.png, str) and len(one.logits) == len(manifest.classes) and all(map(_number, one.logits))
            for one in manifest.golden
        ),
    }
    return next((name for name, right in valid.items() if not right), "")


def _is_reference(reference: Any, classes: int) -> bool:
    """Return whether it is empty, or what evaluation.drift compares with: its counts add up, its shares are shares."""
    if not isinstance(reference, dict) or not reference:
        return reference == {}
    found: list[Any] = [reference.get(name) for name in ("split", "n", "confidence", "answers", "unknown")]
    split, pictures, confidence, answers, unknown = found
    return (
        isinstance(split, str)
        and len(split) <= MAX_TEXT
        and _is_count(pictures, MAX_ANSWERS)
        and pictures > 0
        and _is_count(unknown, pictures)
        and isinstance(confidence, list)
        and 1 < len(confidence) <= MAX_QUANTILES
        and all(_number(one) and 0 <= one <= 1 for one in confidence)
        and isinstance(answers, list)
        and len(answers) == classes
        and all(_is_count(one, pictures) for one in answers)
        and sum(answers) == pictures
    )


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def sealed(data: bytes) -> bytes:
    """Return a model file's bytes, whose manifest holds UNSEALED, with the SHA-256 over them in that place."""
    place = _seal_place(data)
    if place is None or data[slice(*place)] != UNSEALED.encode():
        raise ValueError("The manifest's sha256 must hold the zeros that the seal replaces.")
    return data[: place[0]] + hashlib.sha256(data).hexdigest().encode() + data[place[1] :]


def check_seal(data: bytes) -> str:
    """Return the seal of a model file's bytes, empty without one; raises ModelError if they are not what was sealed.

    To be asked before anything in the file is believed; what is returned must then be what the manifest says.
    """
    place = _seal_place(data)
    if place is None:
        return ""
    view, start, end = memoryview(data), *place
    digest = hashlib.sha256(view[:start])
    digest.update(UNSEALED.encode())
    digest.update(view[end:])
    if digest.hexdigest().encode() != data[start:end]:
        raise ModelError("It is damaged: its bytes are not those that were written. Copy or export the model again.")
    return digest.hexdigest()


def _seal_place(data: bytes) -> tuple[int, int] | None:
    """Return where the digits of the seal begin and end; None if there are none, or several such places."""
    found = [match.span(1) for match in itertools.islice(_seals(data), 2)]
    return found[0] if len(found) == 1 else None


def _seals(data: bytes) -> Iterator[re.Match[bytes]]:
    """Yield the places that look like a seal, of a piece after the other: no other thread runs during a search."""
    for start in range(0, len(data), SEARCHED_BYTES):
        yield from SEAL.finditer(data, start, start + SEARCHED_BYTES + SEAL_BYTES - 1)

"""The manifest: what goes in comes out, and what is not ours is refused in one sentence."""

import hashlib
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from server_kit import write_model

from pupila.cli import main
from pupila.errors import ModelError
from pupila.manifest import MAX_JSON_BYTES, UNSEALED, GoldenPicture, Manifest, check_seal, sealed

MANIFEST = Manifest(
    "pets",
    ("cat", "dog"),
    32,
    64,
    "int8",
    "none",
    {"epochs": 3},
    {"source": "pets"},
    golden=(GoldenPicture("", (1.0, 0.0)),),
)


def test_manifest_survives_json():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_equal_manifests_are_equal_bytes():
    assert MANIFEST.to_json() == Manifest.from_json(MANIFEST.to_json()).to_json()


def changed(**values):
    return json.dumps({**json.loads(MANIFEST.to_json()), **values})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "not one that Pupila wrote"),
        ("[]", "not one that Pupila wrote"),
        (changed(format_version=3), "Upgrade Pupila"),
        (changed(framing="crop"), "'crop'.* Upgrade Pupila"),
        (changed(unknown_score="depth"), "'depth'.* Upgrade Pupila"),
        (changed(shoe_size=42), "incomplete"),
        (changed(golden=[{}]), "incomplete"),
        (changed(classes="ab"), "incomplete"),
        (changed(classes={"a": 1, "b": 2}), "incomplete"),
        (changed(golden=[{"png": "", "logits": "ab"}]), "incomplete"),
        (changed(golden="abcd"), "incomplete"),
        (changed(format_version=True), "format version"),
        (changed(classes=["cat", "cat"]), "repeats a class"),
        (changed(temperature=0), "no temperature"),
        (changed(name="\ud800"), "not one that Pupila wrote"),
        (changed(format_version="\ud800"), "not one that Pupila wrote"),
        (changed(recipe={"\udfff": 1}), "not one that Pupila wrote"),
        (" " * (MAX_JSON_BYTES + 1), "over the limit"),
    ],
)
def test_foreign_manifest_is_refused(text, words):
    with pytest.raises(ModelError, match=words):
        Manifest.from_json(text)


READ = {
    "recipe": ("name", "minutes", "epochs", "seed", "sample", "validation_fraction"),
    "data": ("source", "fingerprint", "train", "validation", "test"),
    "metrics": ("accuracy", "interval", "n", "split", "ece", "marked_unknown"),
}


@pytest.mark.parametrize("value", [[1], {"x": "y"}, None, True])
@pytest.mark.parametrize(("table", "key"), [(table, key) for table, keys in READ.items() for key in keys])
def test_what_commands_read_of_a_model_is_of_its_type(table, key, value):
    with pytest.raises(ModelError, match=rf"no valid {table}\.{key}\."):
        Manifest.from_json(changed(**{table: {key: value}}))


@pytest.mark.parametrize("command", [["inspect"], ["evaluate", "digits", "--report", "r.html"]])
@pytest.mark.parametrize("metrics", [{"accuracy": "x"}, {"accuracy": 1, "n": [1]}, {"marked_unknown": 5}])
def test_commands_name_the_field_of_a_strangers_model_that_is_wrong(command, metrics, tmp_path):
    model = str(write_model(tmp_path / "m.onnx", metrics=metrics))
    done = CliRunner().invoke(main, [command[0], model, *command[1:]])
    assert done.exit_code == 1 and f"no valid metrics.{list(metrics)[-1]}." in done.output, done.output


def test_version_1_is_read_as_squashed_and_unsealed():
    fields = json.loads(changed(format_version=1))
    for name in ("framing", "unknown_score", "sha256"):
        del fields[name]
    read = Manifest.from_json(json.dumps(fields))
    assert (read.format_version, read.framing, read.unknown_score, read.sha256) == (1, "squash", "energy", "")


REFERENCE = {"split": "validation", "n": 7, "confidence": [0.5, 1.0], "answers": [3, 4], "unknown": 1}


def test_reference_is_read_as_it_was_written():
    manifest = replace(MANIFEST, reference=REFERENCE)
    assert len(manifest.classes) == 2 and Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0}, {"n": 7.0}, {"n": 10**12}, {"n": True}, {"split": 3}, {"split": "x" * 2000}, {"confidence": []},
        {"confidence": [0.5, 2]}, {"confidence": [0.5, "1"]}, {"confidence": [0.5] * 5000}, {"answers": [7]},
        {"answers": [3, 3]}, {"answers": [-1, 8]}, {"answers": {}}, {"unknown": 8}, {"unknown": None},
    ],
)  # fmt: skip
def test_reference_that_cannot_be_compared_with_is_refused(change):
    text = replace(MANIFEST, reference={**REFERENCE, **change}).to_json()
    with pytest.raises(ModelError, match="no valid reference"):
        Manifest.from_json(text)


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_that_lacks_something_is_refused(name):
    text = replace(MANIFEST, reference={k: v for k, v in REFERENCE.items() if k != name}).to_json()
    with pytest.raises(ModelError, match="no valid reference"):
        Manifest.from_json(text)


def file_with(manifest):
    return b"weights before" + manifest.to_json().encode() + b"and after"


def test_seal_is_the_hash_of_the_file_with_zeros_in_its_place():
    unsealed = file_with(replace(MANIFEST, sha256=UNSEALED))
    digest = hashlib.sha256(unsealed).hexdigest()
    data = sealed(unsealed)
    assert data == unsealed.replace(UNSEALED.encode(), digest.encode())
    assert check_seal(data) == digest


def test_every_changed_byte_of_a_sealed_file_is_found():
    data = sealed(file_with(replace(MANIFEST, sha256=UNSEALED)))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        try:
            seal = check_seal(bytes(damaged))
        except ModelError:
            continue
        text = bytes(damaged).partition(b"before")[2].partition(b"and after")[0].decode()
        with pytest.raises((ModelError, AssertionError)):  # the seal itself was hit: then the manifest says so
            assert Manifest.from_json(text).sha256 == seal


def test_file_without_a_seal_passes():
    assert check_seal(file_with(MANIFEST)) == ""


def test_number_stands_for_the_golden_pictures_when_shown():
    assert MANIFEST.without_golden()["golden"] == 1

"""The manifest: what goes in comes out, and what is not ours is refused in one sentence."""

import json

import pytest

from pupila.errors import ModelError
from pupila.manifest import MAX_JSON_BYTES, GoldenPicture, Manifest

MANIFEST = Manifest(
    "pets",
    ("cat", "dog"),
    32,
    64,
    "int8",
    "none",
    {"epochs": 3},
    {"source": "pets"},
    golden=(GoldenPicture("", (1.0,)),),
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
        (changed(format_version=2), "Upgrade Pupila"),
        (changed(shoe_size=42), "incomplete"),
        (changed(golden=[{}]), "incomplete"),
        (changed(classes=["cat", "cat"]), "repeats a class"),
        (changed(temperature=0), "no temperature"),
        (" " * (MAX_JSON_BYTES + 1), "over the limit"),
    ],
)
def test_foreign_manifest_is_refused(text, words):
    with pytest.raises(ModelError, match=words):
        Manifest.from_json(text)


def test_number_stands_for_the_golden_pictures_when_shown():
    assert MANIFEST.without_golden()["golden"] == 1

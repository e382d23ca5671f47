"""The public functions take what people give them; anything else ends in one sentence."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from server_kit import Running, picture, serving, write_model
from training_kit import TINY, write_photos

import pupila
from pupila.training.run_folder import new_folder

PUBLIC = [
    "Client", "DataError", "Dataset", "DownloadError", "ImageError", "Manifest", "MissingExtraError", "ModelError",
    "Prediction", "Predictor", "PupilaError", "Recipe", "RecipeError", "ServerError", "Settings", "SettingsError",
    "TrainingError", "__version__", "create_app", "evaluate", "load", "load_dataset", "load_recipe", "serve", "train",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    write_model(folder / "colours.onnx")
    for colour in ("red", "green", "blue"):
        (folder / f"{colour}.png").write_bytes(picture(colour, "PNG", (90, 60)))
    return folder


@pytest.fixture(scope="module")
def server(folder) -> Running:
    with serving(folder / "colours.onnx", folder / "log", '{"port": 0, "workers": 1}') as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with pupila.Client(server.url) as client:
        yield client


@pytest.fixture(scope="module", params=["file", "server"])
def model(request, folder):
    """What predicts: a model file, and a server with the same file."""
    return pupila.load(folder / "colours.onnx") if request.param == "file" else request.getfixturevalue("client")


def every_kind(path: Path):
    image = Image.open(path)
    image.load()
    return {
        "str": str(path), "Path": path, "bytes": path.read_bytes(), "bytearray": bytearray(path.read_bytes()),
        "open file": io.BytesIO(path.read_bytes()), "PIL image": image, "array": np.asarray(image.convert("RGB")),
    }  # fmt: skip


def test_public_names_are_these_and_no_more():
    assert sorted(pupila.__all__) == dir(pupila) == PUBLIC
    assert all(getattr(pupila, name) is not None for name in PUBLIC)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Predictr'"):
        pupila.Predictr  # noqa: B018


@pytest.mark.parametrize("kind", ["str", "Path", "bytes", "bytearray", "open file", "PIL image", "array"])
def test_predict_takes_a_picture_of_every_kind(model, folder, kind):
    answer = model.predict(every_kind(folder / "green.png")[kind])
    assert type(answer) is pupila.Prediction
    assert answer.category == "green" and 0.5 < answer.confidence <= 1 and not answer.unknown


def test_predict_answers_a_list_in_order(model, folder):
    kinds = [every_kind(folder / f"{colour}.png") for colour in ("red", "blue") * 6]
    given = [value for kind in kinds for value in kind.values()]
    assert [answer.category for answer in model.predict(given)] == (["red"] * 7 + ["blue"] * 7) * 6
    assert model.predict([]) == []
    assert [answer.category for answer in model.predict(folder.glob("red.png"))] == ["red"]


def test_prediction_says_top_and_where_the_model_looked(model, folder):
    answer = model.predict(folder / "red.png", top=3, explain=True)
    assert answer.top[0].category == "red" and len(answer.top) == 3
    assert repr(answer) == f"Prediction('red', {answer.confidence:.3f})"
    assert all(0 <= value <= 1 for row in answer.explanation for value in row)
    assert model.predict(folder / "red.png").explanation is None


def test_file_and_server_say_the_same(client, folder):
    mine, theirs = (one.predict(folder / "blue.png", top=4) for one in (pupila.load(folder / "colours.onnx"), client))
    assert [c.category for c in mine.top] == [c.category for c in theirs.top]
    assert theirs.confidence == pytest.approx(mine.confidence, abs=1e-5)


WRONG_PICTURES = {
    "number": 3, "None": None, "dict": {}, "missing file": "none.jpg", "no bytes": b"", "text": b"text",
    "floats": np.zeros((9, 9, 3)), "grey array": np.zeros((9, 9), np.uint8), "text file": io.StringIO("x"),
    "zero byte": "a\0b.jpg", "folder": "/", "list in a list": [["a.jpg"]], "empty array": np.zeros((0, 9, 3), np.uint8),
    "one of many": [b"text", b""], "class": Image.Image, "set": {b"x"},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_PICTURES)
def test_predict_says_in_one_sentence_what_is_no_picture(model, wrong):
    one_sentence(lambda: model.predict(WRONG_PICTURES[wrong]))


@pytest.mark.parametrize("top", [0, -1, "3", 2.0, True, None])
def test_predict_says_what_top_must_be(model, folder, top):
    assert "top must be" in one_sentence(lambda: model.predict(folder / "red.png", top=top))


FUNCTIONS = {
    "load": pupila.load,
    "create_app": pupila.create_app,
    "load_dataset": pupila.load_dataset,
    "load_recipe": pupila.load_recipe,
    "evaluate a model": lambda value: pupila.evaluate(value, "digits"),
    "evaluate on data": lambda value: pupila.evaluate(pupila.load(), value),
    "train": pupila.train,
    "serve": pupila.serve,
    "Client": pupila.Client,
    "recipe of train": lambda value: pupila.train("digits", value),
    "out of train": lambda value: pupila.train("digits", minutes=0.01, out=value) if not_a_path(value) else fail(),
    "settings": lambda value: pupila.create_app(None, value),
}
WRONG = {"int": 3, "bytes": b"digits", "list": ["digits"], "dict": {}, "object": object(), "text": "no such thing"}


def not_a_path(value):
    return not isinstance(value, str)


def fail():
    raise TypeError("A text is a path.")


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_says_in_one_sentence_what_it_does_not_take(function, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_sentence(lambda: FUNCTIONS[function](WRONG[wrong]))


def one_sentence(call) -> str:
    with pytest.raises((pupila.PupilaError, TypeError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text and "argument" not in text
    assert isinstance(caught.value, TypeError) or caught.value.code
    return text


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: pupila.serve(prt=3000), "There is no option 'prt'. Did you mean 'port'?"),
        (lambda: pupila.serve(port="3000"), "port must be a number, not str."),
        (lambda: pupila.train("digits", epoch=3), "standard: unknown key 'epoch'. Did you mean 'epochs'?"),
        (lambda: pupila.train("digits", on_epoch=3), "on_epoch must be a function, not int."),
        (lambda: pupila.train("digits", minutes="2"), "standard: minutes must be a number, not '2'."),
    ],
)
def test_wrong_options_are_named(call, text):
    assert one_sentence(call) == text


def test_every_error_has_a_code_of_its_own():
    classes = {name: getattr(pupila, name) for name in PUBLIC if name.endswith("Error")}
    codes = {name: cls.code for name, cls in classes.items() if name not in ("ImageError", "ServerError")}
    assert len(set(codes.values())) == len(codes)
    assert codes["DataError"] == "data_error" and codes["PupilaError"] == "error"


def test_unreachable_server_is_a_server_error():
    with pytest.raises(pupila.ServerError, match="Connection refused") as caught:
        pupila.Client("http://127.0.0.1:9").predict(b"x")
    assert (caught.value.status, caught.value.code) == (0, "unreachable")


def test_app_answers_under_any_wsgi_server(folder):
    app = pupila.create_app(folder / "colours.onnx")
    answer = app.test_client().post("/predict", data=(folder / "red.png").read_bytes(), content_type="image/png")
    assert answer.json["predictions"][0]["category"] == "red"
    assert pupila.create_app(pupila.load(folder / "colours.onnx"), pupila.Settings(max_parts=1)) is not None


def test_serve_answers_in_a_process_of_its_own(folder):
    code = f"import pupila; pupila.serve({str(folder / 'colours.onnx')!r}, port=0, workers=1)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            with pupila.Client(process.stdout.readline().split()[2]) as client:
                assert client.predict(folder / "blue.png").category == "blue"
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0


def test_train_then_load_then_evaluate(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    photos, seen = write_photos(tmp_path / "photos", 45), []
    run = pupila.train(photos, TINY, on_epoch=lambda rows: seen.append(len(rows)), epochs=1)
    assert seen == [1] and len(run.history) == 1
    assert run.model == Path("runs/photos-tiny/model.onnx") and run.report.exists()
    low, high = run.interval
    assert low <= run.accuracy <= high
    assert pupila.load(run.model).predict(next(photos.rglob("*.png"))).category in ("red", "green", "blue")
    found = pupila.evaluate(run.model, photos)
    assert found.split == "held out" and "held out" in found.caution
    assert found.accuracy == pytest.approx(run.accuracy) and found.scores.n == 6
    with new_folder(Path("runs"), "photos-tiny") as folder:
        assert folder == Path("runs/photos-tiny-2")
    assert pupila.load_dataset(photos).train.classes == ("blue", "green", "red")
    assert capfd.readouterr() == ("", "")


def test_import_is_light_and_library_logs_to_pupila():
    code = "import pupila, sys; print(sorted({'numpy', 'torch', 'PIL', 'flask'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    assert logging.getLogger("pupila").handlers == []

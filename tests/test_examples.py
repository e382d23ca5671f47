"""The examples run as they stand, on pictures that are made here."""

import inspect
import json
import re
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from server_kit import picture, serving, write_model
from training_kit import write_photos

import pupila

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, folder):
    program = ["sh"] if name.endswith(".sh") else [sys.executable]
    return subprocess.run(
        [*program, EXAMPLES / name, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good pictures, a bad one, and a model that knows colours."""
    folder = tmp_path_factory.mktemp("examples")
    for name, colour in (("a.jpg", "red"), ("b.jpg", "green"), ("c.jpg", "blue")):
        (folder / name).write_bytes(picture(colour, "JPEG", (90, 60)))
    (folder / "bad.jpg").write_bytes(b"no picture")
    write_model(folder / "colours.onnx")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder / "colours.onnx", folder / "log", '{"port": 0, "workers": 1}') as running:
        yield running


def test_train_makes_a_model_of_a_folder(tmp_path):
    write_photos(tmp_path / "photos")
    done = run("train.py", "photos", "0.02", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("runs/photos-standard/model.onnx: right on ")
    assert (tmp_path / "runs" / "photos-standard" / "model.onnx").exists()


def test_ask_prints_three_choices_a_picture(folder, server):
    done = run("ask.py", server.url, "a.jpg", "b.jpg", "c.jpg", folder=folder)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["a.jpg:", "red"],
        ["b.jpg:", "green"],
        ["c.jpg:", "blue"],
    ]
    assert done.stdout.count("%") == 9


def test_ask_names_the_bad_picture(folder, server):
    done = run("ask.py", server.url, "a.jpg", "bad.jpg", folder=folder)
    assert done.returncode == 1
    assert done.stdout.startswith("bad.jpg: ") and "image_unrecognised" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http://127.0.0.1:9", "a.jpg"], "unreachable: http://127.0.0.1:9: Connection refused\n"),
        (
            ["http://127.0.0.1:9", "none.jpg"],
            "none.jpg: It cannot be read (No such file or directory). Check the path.\n",
        ),
        (
            ["127.0.0.1", "a.jpg"],
            "bad_address: '127.0.0.1' is not an address. Give one such as http://127.0.0.1:3000\n",
        ),
    ],
)
def test_ask_says_in_one_sentence_what_it_cannot_reach(folder, arguments, told):
    done = run("ask.py", *arguments, folder=folder)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.parametrize("name", ["ask.py", "embed.py", "train.py"])
def test_without_arguments_they_say_how_they_are_used(folder, name):
    done = run(name, folder=folder)
    assert done.returncode == 1
    assert f"\npython examples/{name} " in done.stderr and "Traceback" not in done.stderr


def test_embed_says_that_there_is_no_model(folder):
    done = run("embed.py", "none.onnx", "a.jpg", folder=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("none.onnx: cannot be read") and done.stderr.count("\n") == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_ask_with_curl_answers_the_good_ones_and_explains_the_bad_one(folder, server):
    hostile = 'c\\"\n.jpg,b.jpg;type=image/png'  # curl's own words in a name: no other file is sent
    (folder / hostile).parent.mkdir(exist_ok=True)
    shutil.copy(folder / "c.jpg", folder / hostile)
    done = run("ask.sh", server.url, "a.jpg", "bad.jpg", hostile, folder=folder)
    assert done.returncode == 0, done.stderr
    red, bad, blue = json.loads(done.stdout)["predictions"]
    assert (red["category"], bad["error"]["code"], blue["category"]) == ("red", "image_unrecognised", "blue")


def test_embed_answers_without_a_server_or_torch(folder):
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "print(sorted({'torch', 'flask'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(EXAMPLES / "embed.py"), "colours.onnx", "a.jpg", "bad.jpg", "b.jpg"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    red, bad, green, loaded = done.stdout.splitlines()
    assert bad.startswith("bad.jpg: ") and red.startswith("a.jpg: red") and green.startswith("b.jpg: green")
    assert loaded == "[]"


@pytest.mark.parametrize("name", ["ask.py", "embed.py", "train.py"])
def test_examples_need_pupila_alone(name):
    imports = [line for line in (EXAMPLES / name).read_text().splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import sys", "import pupila"]


PHOTOS = sorted((EXAMPLES / "photos").glob("*.jpg"))
PAGE = EXAMPLES.parent / "src" / "pupila" / "server" / "api" / "page"


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda path: path.stem)
def test_bundled_model_knows_the_sample_photos(photo):
    answer = pupila.load().predict(photo)
    assert answer.category == photo.stem and answer.confidence > 0.9 and not answer.unknown


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda path: path.stem)
def test_bundled_model_knows_the_examples_of_the_page(photo):
    answer = pupila.load().predict(PAGE / f"example-{photo.stem}.webp")
    assert answer.category == photo.stem and answer.confidence > 0.9 and not answer.unknown


def test_first_line_of_python_answers_within_two_seconds_of_processor_time():
    code = "import pupila; print(pupila.load().predict('examples/photos/horse.jpg'))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert re.match(r"Prediction\('horse', [01]\.\d{3}\)", done.stdout) and done.stderr == ""
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_notebook_runs(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (EXAMPLES / "pupila.ipynb").read_text()
    less = 'weights=\\"bundled\\", sample=200, network_size=32, export=\\"float32\\")'
    assert text.count('\\"quick\\")') == 1 and text.count("3000") == 2
    short = text.replace('\\"quick\\")', f'\\"quick\\", {less}').replace("3000", str(port))  # the rest is as it stands
    notebook = nbformat.reads(short, as_version=4)
    resources = {"metadata": {"path": str(tmp_path / "examples")}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    cells = ["".join(map(str, cell.get("outputs", []))) for cell in notebook.cells if cell.cell_type == "code"]
    first, several, data, trained, score, mistakes, app, served = cells
    assert "Prediction('horse', 0." in first and "dog 0." in several and "frog 0." in several
    assert "pictures of 0, 1, 2" in data and "of the validation pictures are right" in trained
    assert "report.html" in trained and re.search(r"'text/plain': '[01]\.\d+'", score)
    assert "Prediction('" in mistakes and "['0', '1', '2'" in app and "Prediction('0'" in served


def test_notebook_shows_every_function_of_the_package():
    text = (EXAMPLES / "pupila.ipynb").read_text()
    functions = [name for name in pupila.__all__ if inspect.isfunction(getattr(pupila, name))]
    assert [name for name in [*functions, "Client"] if f"pupila.{name}" not in text] == ["load_recipe"]

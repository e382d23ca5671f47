"""The documents tell the truth: commands exist, links lead somewhere, examples run, every error code is explained."""

import ast
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import onnx
import pytest
import requests
from flask import Flask
from PIL import Image
from server_kit import Running, encode, serving, write_model
from training_kit import write_photos

import pupila.errors
from pupila._language import translated
from pupila.cli import main
from pupila.cli.group import field_docs
from pupila.manifest import METADATA_KEY, UNSEALED, Manifest, sealed
from pupila.models import bundled_model
from pupila.predictor import Predictor
from pupila.recipe import Recipe
from pupila.server import Settings, create_app

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "pupila"
READMES = [ROOT / "README.md", ROOT / "README.pt-BR.md"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
DESIGN = ROOT / "docs" / "design.md"
HTTP = ROOT / "docs" / "http.md"
PYTHON_PAGE = ROOT / "docs" / "python-api.md"
REFERENCE = ROOT / "docs" / "reference"
PORTUGUESE = ".pt-BR.md"
IN_TWO_LANGUAGES = sorted(
    path
    for pattern in ("guides/*.md", "concepts/*.md", "faq.md", "getting-started.md", "index.md", "platforms.md")
    for path in ROOT.glob(f"docs/{pattern}")
    if not path.name.endswith(PORTUGUESE)
)
MODEL_FILE = ROOT / "docs" / "model-file.md"
DEFAULT_URL = "http://127.0.0.1:3000"
WITH_THE_MODEL = {
    bundled_model(),
    ROOT / "docs" / "models",
    ROOT / "docs" / "models" / "cifar10.md",
    ROOT / "docs" / "experiments.md",
}
"""What comes into the repository together with the bundled model, and may be missing as long as that is."""

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
every_readme = pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)


def blocks(document: Path, language: str | None = None) -> list[str]:
    """Return the document's code blocks, those of one language or all."""
    return [text for named, text in named_blocks(document) if language is None or named == language]


def named_blocks(document: Path) -> list[tuple[str, str]]:
    """Return the language, or an empty text, and the text of each of the document's code blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(document: Path) -> str:
    """Return the text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(document: Path) -> list[str]:
    """Return the heading lines, code blocks left out."""
    return re.findall(r"^#+ .*$", prose(document), re.MULTILINE)


def missing(paths: set[Path]) -> set[Path]:
    """Return those that do not exist, though they should by now."""
    expected = paths if bundled_model().exists() else paths - WITH_THE_MODEL
    return {path for path in expected if not path.exists()}


# What is written about settings


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `--([\w-]+)` \| (\S+) \|", HTTP.read_text(), re.MULTILINE))
    settings = {field.name.replace("_", "-"): field.default for field in dataclasses.fields(Settings)}
    assert rows.keys() == settings.keys()
    given = {name: str(default) if default not in ((), None) else "none" for name, default in settings.items()}
    assert rows == {name: text.removesuffix(".0") for name, text in given.items()}


# What is written about files


@every_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    linked = [target.partition("#") for target in targets if "://" not in target]
    paths = {document.parent / path if path else document for path, _, _ in linked}
    assert missing({path.resolve() for path in paths}) == set()
    for path, _, anchor in linked:
        if anchor:
            assert anchor in [_anchor(heading) for heading in headings(document.parent / path if path else document)]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_every_document_that_the_code_speaks_of_exists() -> None:
    folders = [ROOT / "src" / "pupila", ROOT / "deploy", ROOT / "benchmarks", ROOT / "tests", ROOT / "examples"]
    texts = [
        path for folder in folders for path in folder.rglob("*.*") if path.suffix in (".py", ".toml", ".yaml", ".yml")
    ]
    named = {name for path in texts for name in re.findall(r"\bdocs/[\w/.-]+\.md\b", path.read_text(encoding="utf-8"))}
    assert {name for name in named if not (ROOT / name).exists()} == set()


@every_document
def test_no_place_is_left_to_be_filled_in(document: Path) -> None:
    assert re.findall(r"^[A-Z]{4,}$|\| [A-Z]{6,} (?=\|)|\b(?:TODO|FIXME|TBD)\b", prose(document), re.MULTILINE) == []


def tree(readme: Path) -> dict[Path, str]:
    """Return each path of the file tree that ends a README, with its comment."""
    found: dict[Path, str] = {}
    folders: list[str] = []
    for line in blocks(readme)[-1].splitlines():
        match = re.fullmatch(r"( *)(\S+)(?: +# (.+))?", line)
        assert match, line
        folders = folders[: len(match[1]) // 2]
        found[ROOT.joinpath(*folders, match[2])] = match[3] or ""
        if match[2].endswith("/"):
            folders.append(match[2])
    return found


@every_readme
def test_file_tree_names_only_what_is_there_each_with_a_comment(readme: Path) -> None:
    found = tree(readme)
    assert missing(set(found)) == set()
    assert [path for path, comment in found.items() if not comment and path.suffix] == []


@every_readme
def test_file_tree_names_every_package(readme: Path) -> None:
    kept = {path.parent for path in ROOT.glob("src/pupila/*/*.*")}
    kept |= {path for pattern in ("benchmarks/*", "*.md", "*.yml") for path in ROOT.glob(pattern)}
    kept = {path for path in kept if path.name != "__pycache__" and (path.is_file() or any(path.rglob("*.*")))}
    assert {str(path.relative_to(ROOT)) for path in kept - tree(readme).keys()} == set()


def test_design_names_every_package_in_the_order_that_import_linter_enforces() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    order = [set(layer.split(" | ")) for layer in reversed(contracts[0]["layers"])]
    table = DESIGN.read_text(encoding="utf-8").partition("| package |")[2].partition("\n\n")[0]
    named = [
        name
        for names in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
        for name in names[1:-1].split("`, `")
    ]
    assert set(named) == set.union(*order) - {"__main__"}
    assert named == sorted(named, key=lambda name: [name in layer for layer in order].index(True))


# Two languages, one text


def test_readmes_have_the_same_sections_and_figures() -> None:
    english, portuguese = (
        [re.match("#+", heading)[0] for heading in headings(readme)]  # type: ignore[index]
        for readme in READMES
    )
    assert english == portuguese
    assert figures(READMES[0]) == figures(READMES[1])


def test_readmes_have_the_same_code_but_for_comments() -> None:
    english, portuguese = (
        [re.sub(r" +# .*$", "", block, flags=re.MULTILINE) for block in blocks(readme)] for readme in READMES
    )
    assert english == portuguese


def test_readmes_lead_to_each_other_and_hold_the_same_links() -> None:
    english, portuguese = (re.findall(r"\]\(([^)\s]+)\)", readme.read_text(encoding="utf-8")) for readme in READMES)
    assert english[0] == READMES[1].name
    assert portuguese[0] == READMES[0].name
    assert english[1:] == [link.replace(".pt-BR.md", ".md") for link in portuguese[1:]]


def translation(page: Path) -> Path:
    """Return where the Portuguese page of an English one is."""
    return page.with_name(page.name.removesuffix(".md") + PORTUGUESE)


def tables(document: Path) -> list[list[int]]:
    """Return the number of cells of each row, table by table."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [[len(re.findall(r"(?<!\\)\|", row)) - 1 for row in table.splitlines()] for table in found]


def inline_code(document: Path) -> set[str]:
    """Return what is written as `code` in sentences and tables: commands, options, names of files."""
    return {" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(document))}


def figures(document: Path) -> list[str]:
    """Return the digits of every number in the sentences and tables, sorted; 0.5 and 0,5 are alike."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]*>", "", prose(document))
    return sorted(re.sub(r"\D", "", number) for number in re.findall(r"\d[\d.,]*", text))


def paragraphs(document: Path) -> tuple[int, int]:
    """Return how many paragraphs and how many entries of lists there are."""
    text = prose(document)
    return len(re.findall(r"\S\n\s*?\n", text)), len(re.findall(r"^- ", text, re.MULTILINE))


def places(document: Path) -> list[tuple[str, int]]:
    """Return where each link leads: the English page or address, and which of its headings; in alphabetical order."""
    found = []
    for link in re.findall(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in link:
            found.append((link, 0))
            continue
        page = document.parent / target
        number = [_anchor(heading) for heading in headings(page)].index(anchor) if anchor else 0
        english = page.name.removesuffix(PORTUGUESE) + ".md" if page.name.endswith(PORTUGUESE) else page.name
        found.append((str((page.parent / english).resolve()), number))
    return sorted(found)


translated_page = pytest.mark.parametrize("page", IN_TWO_LANGUAGES, ids=lambda path: str(path.relative_to(ROOT)))


def test_every_guide_and_concept_page_is_in_portuguese_too() -> None:
    assert len(IN_TWO_LANGUAGES) > 10
    assert [page for page in IN_TWO_LANGUAGES if not translation(page).exists()] == []


def test_every_portuguese_page_belongs_to_an_english_one() -> None:
    english = {translation(page) for page in IN_TWO_LANGUAGES}
    assert set(ROOT.glob(f"docs/**/*{PORTUGUESE}")) - english == set()


@translated_page
def test_portuguese_page_has_the_same_headings_code_and_tables(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs print, in blocks without a language, is in Portuguese."""
    other = translation(page)
    levels = [[heading.split()[0] for heading in headings(document)] for document in (page, other)]
    assert levels[0] == levels[1]
    monkeypatch.setenv("PUPILA_LANG", "pt_BR")
    assert blocks(other) == [text if named else translated(text) for named, text in named_blocks(page)]
    assert tables(page) == tables(other)


@translated_page
def test_portuguese_page_has_the_same_paragraphs_figures_commands_options_and_files(page: Path) -> None:
    assert paragraphs(page) == paragraphs(translation(page))
    assert figures(page) == figures(translation(page))
    assert inline_code(page) == inline_code(translation(page))


@translated_page
def test_portuguese_page_has_the_same_links_each_to_portuguese_where_there_is_any(page: Path) -> None:
    other = translation(page)
    assert page.read_text(encoding="utf-8").splitlines()[2] == f"[Em português]({other.name})"
    assert other.read_text(encoding="utf-8").splitlines()[2] == f"[In English]({page.name})"
    assert places(page) == places(other)
    links = set(re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", other.read_text(encoding="utf-8"))) - {page.name}
    english = [link for link in links if link.endswith(".md") and not link.endswith(PORTUGUESE)]
    assert [link for link in english if translation(other.parent / link).exists()] == []


# What is written about errors


def codes_in_source() -> set[tuple[int, str]]:
    """Return (status, code) of every error that the server's source can answer with."""
    from pupila.server.api.errors import STATUS_OF_IMAGE_ERROR

    found = {(status, code) for code, status in STATUS_OF_IMAGE_ERROR.items()}
    for path in SOURCE.glob("server/**/*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                found |= _status_and_code(call)
    return found


def _status_and_code(call: ast.Call) -> set[tuple[int, str]]:
    """Return what f(..., 413, "body_too_large", ...) answers with; f(x if y else 400, ...) counts too."""
    plain = [branch for argument in call.args for branch in _branches(argument)]
    values = [node.value for node in plain if isinstance(node, ast.Constant)]
    codes = [value for value in values if isinstance(value, str) and re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", value)]
    statuses = [value for value in values if isinstance(value, int) and 400 <= value < 600]
    if isinstance(call.func, ast.Name) and call.func.id == "BadPart":
        statuses.append(400)  # the class's own default
    return {(status, code) for status in statuses[:1] for code in codes}


def _branches(node: ast.expr) -> list[ast.expr]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def codes_in_page() -> set[tuple[int, str]]:
    """Return (status, code) of every row of the table of errors."""
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| \S", HTTP.read_text(encoding="utf-8"), re.MULTILINE)
    return {(int(status), code) for status, code in rows}


def test_every_error_code_is_documented_with_its_status_and_no_other() -> None:
    from_flask = {(404, "not_found"), (405, "method_not_allowed")}
    assert codes_in_page() == codes_in_source() | from_flask


def test_every_error_class_is_documented() -> None:
    named = re.findall(r"^\| `(\w+Error)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    classes = [name for name, value in vars(pupila.errors).items() if isinstance(value, type) and "Error" in name]
    assert sorted(named) == sorted(classes)


def test_every_sentence_that_the_errors_page_quotes_is_in_the_source() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    table = page.partition("| you see |")[2].partition("\n\n")[0]
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    quoted = [text.replace("3000", "{port}") for text in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)]
    assert quoted
    assert [text for text in quoted if text not in source] == []


# The reference is complete


def load(script: Path) -> ModuleType:
    """Return a script that is not part of the package as a module."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_of_commands_and_recipes_is_what_the_code_says() -> None:
    pages = load(ROOT / "tools" / "reference.py").pages()
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "write them anew with: python tools/reference.py"


def test_reference_names_every_command_and_option() -> None:
    pages = (REFERENCE / "commands.md").read_text() + HTTP.read_text()
    assert {flag for flag in flags(main, "pupila") if flag not in pages} == set()


def flags(command: click.Command, path: str) -> set[str]:
    """Return each command and option below a command, as the pages write them."""
    below = command.commands.items() if isinstance(command, click.Group) else ()
    found = {flag for name, one in below for flag in flags(one, f"{path} {name}")}
    if not below:
        options = [p for p in command.get_params(click.Context(command)) if isinstance(p, click.Option)]
        found |= {f"## {path}\n", *(f"`{option.opts[0]}" for option in options if "--help" not in option.opts)}
    return found


@pytest.mark.parametrize("cls", [Recipe, Settings], ids=lambda cls: cls.__name__)
def test_every_key_and_setting_explains_itself(cls: type) -> None:
    fields = {field.name for field in dataclasses.fields(cls)}
    assert fields - field_docs(cls).keys() == set()


def test_every_metric_is_documented_and_no_other() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.glob("server/**/*.py"))
    made = set(re.findall(r'"(pupila_[a-z_]+)"', source))
    table = HTTP.read_text().partition("| metric |")[2].partition("\n\n")[0]
    named = {name.removesuffix("_total") for name in re.findall(r"`(pupila_[a-z_]+)`", table)}
    assert made and named == made


def test_every_environment_variable_is_documented() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    page = (REFERENCE / "commands.md").read_text()
    assert {name for name in re.findall(r"\bPUPILA_[A-Z_]+\b", source) if f"`{name}`" not in page} == set()


def test_site_has_every_page_and_asks_no_other_host(tmp_path: Path) -> None:
    """Strict: a page that the navigation leaves out, or a link that leads nowhere, ends the build."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    spoken = {page: re.findall(r'<html lang="(\w+)"', page.read_text("utf-8")) for page in tmp_path.rglob("*.html")}
    assert [page for page, says in spoken.items() if says != ["pt" if "pt-BR" in page.name else "en"]] == []
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    loaded = [
        url
        for page in pages
        for url in re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\s\">]+)", page)
    ]
    assert len(pages) > len(DOCUMENTS) - len(list(ROOT.glob("*.md")))
    assert loaded and [url for url in loaded if re.match(r"(https?:)?//", url)] == []


# Examples run


@pytest.fixture(scope="module", params=["small", "bundled"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the tests' own, and the one that the documents speak of."""
    if request.param == "small":
        return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    if not bundled_model().exists():
        pytest.skip("the bundled model is not in the repository yet")
    return bundled_model()


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(model, tmp_path_factory.mktemp("log") / "log", '{"port": 0, "workers": 1}') as running:
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder that holds the pictures which the documents speak of."""
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "examples" / "photos")
    shutil.copytree(ROOT / "examples" / "photos", tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(program: list[str], text: str, folder: Path, server: Running) -> str:
    """Run an example where its pictures are, against the server that the tests have started; return what it prints."""
    text = text.replace(DEFAULT_URL, server.url)
    done = subprocess.run([*program, text], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_python_example_answers_three_pictures(pictures: Path, server: Running, model: Path) -> None:
    (example,) = blocks(READMES[0], "python")
    answered = ast.literal_eval(run([sys.executable, "-c"], example, pictures, server))["predictions"]
    promised = ast.literal_eval(blocks(READMES[0], "")[0])["predictions"]
    assert [entry.keys() for entry in promised] == [entry.keys() - {"unknown"} for entry in answered]
    if model == bundled_model():
        assert [{**entry, "confidence": ...} for entry in answered] == promised


def test_python_page_example_runs_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for a short training; `serve`, which does not return, runs in a process of its own."""
    (example,) = blocks(PYTHON_PAGE, "python")
    (line,) = re.findall(r"^pupila\.serve\(.*\)$", example, re.MULTILINE)
    assert "minutes=2)" in example
    example = example.replace(line, "").replace("minutes=2)", 'epochs=1, weights="none", network_size=64)')
    write_photos(tmp_path / "photos", 45)
    write_model(tmp_path / "model.onnx")
    for name in ("horse", "a", "b"):
        shutil.copy(ROOT / "examples" / "photos" / "horse.jpg", tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    code = f"import pupila\n{line.replace('port=3000', 'port=0, workers=1')}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            exec(example.replace(DEFAULT_URL, process.stdout.readline().split()[2]), found := {})  # noqa: S102
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert (process.returncode, len(found["ps"]), len(found["ps"][0].top)) == (0, 2, 3)
    assert found["run"].model.exists() and found["run"].report.exists()


@pytest.mark.parametrize("document", [READMES[0], HTTP], ids=lambda path: path.name)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_examples_answer(document: Path, pictures: Path, server: Running) -> None:
    examples = [block for block in blocks(document, "sh") if "curl" in block]
    assert examples
    for example in examples:
        answer = run(["bash", "-ec"], example.replace("curl ", "curl --fail --silent --noproxy '*' "), pictures, server)
        assert json.loads(answer)["predictions"]


@pytest.mark.parametrize("document", [*READMES, HTTP], ids=lambda path: path.name)
def test_error_example_is_what_the_server_answers(document: Path, server: Running) -> None:
    whole = encode(Image.effect_noise((160, 120), 64), "JPEG")
    cut_off = {"file": ("frog.jpg", whole[: len(whole) // 2])}
    parts = [("file", ("horse.jpg", whole)), *cut_off.items()]
    answer = requests.post(f"{server.url}/predict", files=parts, timeout=30)
    assert answer.status_code == 422
    assert answer.json() == json.loads(blocks(document, "json")[0])


def test_codes_that_flask_makes_are_as_documented(server: Running) -> None:
    lost = requests.get(f"{server.url}/nowhere", timeout=30)
    wrong = requests.get(f"{server.url}/predict", timeout=30)
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]
    assert "/nowhere" in lost.json()["error"]["message"]
    assert "GET does not work for /predict. Use " in wrong.json()["error"]["message"]


def test_every_route_is_documented(model: Path) -> None:
    app: Flask = create_app(Predictor.load(model))
    page = HTTP.read_text(encoding="utf-8")
    routes = {
        f"`{method} {rule.rule}`"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {route for route in routes if route not in page} == set()


def follow_model_file_page(model: Path) -> subprocess.CompletedProcess[str]:
    """Run what the page says on a model, without Pupila."""
    examples = "\n".join(blocks(MODEL_FILE, "python")).replace("src/pupila/models/cifar10.onnx", str(model))
    code = f"{examples}\nimport sys\nassert 'pupila' not in sys.modules\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_model_file_examples_read_and_verify_a_model_without_pupila(model: Path) -> None:
    done = follow_model_file_page(model)
    assert done.returncode == 0, done.stderr
    manifest = Predictor.load(model).manifest
    sealed_or_not = "sealed and whole" if manifest.sha256 else "not sealed"
    assert f"format version {manifest.format_version}, {sealed_or_not}" in done.stdout
    for name in manifest.classes:
        assert f"'{name}': " in done.stdout


def test_model_file_examples_find_a_change_in_a_sealed_file(tmp_path: Path) -> None:
    data = sealed_model(write_model(tmp_path / "colours.onnx"))
    (tmp_path / "whole.onnx").write_bytes(data)
    (tmp_path / "changed.onnx").write_bytes(data.replace(b'"red"', b'"rad"'))
    whole, changed = (follow_model_file_page(tmp_path / f"{name}.onnx") for name in ("whole", "changed"))
    assert "format version 2, sealed and whole" in whole.stdout, whole.stderr
    assert (changed.returncode, changed.stderr.strip().endswith("changed.onnx: is damaged")) == (1, True)


def sealed_model(path: Path) -> bytes:
    """Return the model file as training would write it."""
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest = Manifest.from_json(entry.value)
    entry.value = dataclasses.replace(manifest, sha256=UNSEALED).to_json()
    return sealed(model.SerializeToString())


def test_model_file_page_explains_every_field_of_the_manifest(model: Path) -> None:
    page = MODEL_FILE.read_text(encoding="utf-8")
    fields = {field.name for field in dataclasses.fields(Predictor.load(model).manifest)}
    assert set(re.findall(r"^\| `(\w+)` \| (?!uint8|float32)", page, re.MULTILINE)) == fields

"""Whatever Pupila's documents, help, messages and files tell a reader to type can be typed.

Every command that is named anywhere is collected and parsed: the program, its options and values, the files of the
repository in it. What the guides tell in `sh` blocks is also run, by tests/test_guides.py.
"""

import argparse
import ast
import functools
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner
from PIL import Image
from test_documents import DOCUMENTS, ROOT, SOURCE, blocks, prose

from pupila.cli import main
from pupila.errors import RecipeError, install_command
from pupila.models import bundled_model
from pupila.recipe import Recipe, load_recipe, shipped

PROGRAMS = ("pupila", "python", "python3", "pytest", "make", "pip")
BEFORE = re.compile(r"sudo|\$|[A-Z_]+=\S*")
"""What may stand before a program."""
TOLD = re.compile(r"(?:^ {4,}|^\W*# *|: |^(?=python))((?:sudo )?(?:\S*bin/)?(?:pupila|python3?|pytest|pip) .+)")
"""Where a line of text names a command that is not in backticks: indented, in a comment, or after a colon."""
SET_ASIDE = re.compile(r"(?<![\w`-])--[a-z][a-z-]*[a-z]\b(?!\()")
OF_OTHERS = {"--head", "--cpus", "--help", "--version", "--unix-socket"}
"""Options of Ray, Docker, curl and click."""
IN_REPOSITORY = ("src/", "docs/", "examples/", "benchmarks/", "deploy/", "tests/", "tools/", "packages/")
FIGURE = "1"
"""Stands for what a message puts in."""
PAGES = [*DOCUMENTS, *ROOT.glob("packages/*/README.md")]
NOT_OF_THE_PAST = [page for page in PAGES if page.name != "CHANGELOG.md"]
FILES = [
    path
    for pattern in ("deploy/**/*.*", "deploy/Dockerfile", "src/pupila/**/*.toml", "src/pupila/server/api/page/*.*s",
                    "src/pupila/server/api/page/*.html", "Makefile", ".ci/run")
    for path in sorted(ROOT.glob(pattern)) if path.is_file() and path.suffix != ".json"
]  # fmt: skip
PYTHON = [
    path
    for pattern in ("src/pupila/**/*.py", "benchmarks/**/*.py", "examples/*.py", "tools/*.py", "docs/*.py")
    for path in sorted(ROOT.glob(pattern))
]


class Told(NamedTuple):
    """One command, where it is told."""

    where: str
    words: tuple[str, ...]


class WrongError(ValueError):
    """What is wrong with a command."""


# What is told


def commands(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands of our programs in a line as a shell would read it; `[...]` holds what may be left out."""
    line = re.sub(r" \[([^]]*)\]", lambda found: " " + found[1].replace("|", " "), line)
    line = re.split(r"(?<=\S)\s{3,}(?=\S)", line)[0]
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[str] = []
    try:
        for word in [*words, ";"]:
            if set(word) <= set("|&;()<>"):
                yield from filter(None, [_ours(found)])
                found = []
            else:
                found.append(word)
    except ValueError:  # a quotation mark that is not closed: no command
        return


def _ours(words: list[str]) -> tuple[str, ...]:
    while words and BEFORE.fullmatch(words[0]):
        words = words[1:]
    program = words[0].rpartition("bin/")[2] if words else ""
    if program not in PROGRAMS or "..." in words[1:2]:
        return ()
    if words[1:3] == ["-m", "pupila"]:
        return ("pupila", *words[3:])
    return (program, *words[1:])


def in_text(text: str) -> Iterator[str]:
    """Yield what a text that is not code names as commands."""
    for code in re.findall(r"``?([^`]+)``?", text):
        yield " ".join(code.split())
    for line in re.sub(r"`[^`]*`", "", text).splitlines():
        yield from (found.rstrip(".\"',)") for found in TOLD.findall(line))


def in_page(page: Path) -> Iterator[str]:
    """Yield the lines of code blocks and what is set as `code`."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.removeprefix("$ ")
            yield from TOLD.findall(line)
    text = prose(page)
    yield from (line.strip() for line in re.findall(r"^    .*$", text.replace("\\\n", " "), re.MULTILINE))
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text))


def strings(path: Path) -> Iterator[str]:
    """Yield every text in a Python file, a figure in place of each field."""
    inside: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            inside |= set(node.values)
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else FIGURE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


def in_file(path: Path) -> Iterator[str]:
    """Yield what a file names as commands: one of Python in its texts, others anywhere."""
    for text in strings(path) if path.suffix == ".py" else [path.read_text(encoding="utf-8")]:
        yield from in_text(text)


def told(paths: Iterable[Path]) -> list[Told]:
    """Return every command that is told in these files."""
    found = {}
    for path in paths:
        for line in in_page(path) if path.suffix == ".md" else in_file(path):
            for words in commands(line):
                found[Told(str(path.relative_to(ROOT)), words)] = None
    return list(found)


# Whether it can be typed


def check(words: tuple[str, ...]) -> None:
    """Raise WrongError that says why a command cannot be typed as it is told."""
    program, *arguments = words
    for word in arguments:
        if word.startswith(IN_REPOSITORY) and not (ROOT / word).exists():
            raise WrongError(f"there is no {word}")
    if program == "pupila":
        _pupila(arguments, main)
    elif program.startswith("python"):
        _python(arguments)
    elif program == "pytest":
        _pytest(arguments)
    elif program == "make":
        _make(arguments)
    else:
        _pip(arguments)


def _pupila(words: list[str], group: click.Group) -> None:
    if not words or words[0].startswith("-"):
        _options(words, group)
        return
    context = click.Context(group)
    try:
        _, command, rest = group.resolve_command(context, words)
        if isinstance(command, click.Group):
            _pupila(rest, command)
        elif command and (rest or not any(p.required for p in command.get_params(context))):
            _recipe(command.make_context(words[0], rest, parent=context).params)  # `pupila train` alone names it
    except click.ClickException as error:
        raise WrongError(error.format_message()) from error


def _options(words: Iterable[str], command: click.Command) -> None:
    known = {name for p in command.get_params(click.Context(command)) for name in [*p.opts, *p.secondary_opts]}
    if unknown := [word for word in words if word.startswith("-") and word not in known]:
        raise WrongError(f"there is no option {unknown[0]}")


def _recipe(parsed: dict[str, object]) -> None:
    """Check what a training is told: a shipped recipe's name, and keys with values that it takes."""
    name = str(parsed.get("recipe") or "standard")
    if not name.endswith(".toml") and not name.isupper() and name not in shipped():
        raise WrongError(f"there is no recipe {name}")
    pairs = [str(pair) for pair in [*parsed.get("overrides", ()), *parsed.get("grid", ())]]  # type: ignore[misc]
    _pairs(pairs, load_recipe(name) if name in shipped() else Recipe())


def _pairs(pairs: Iterable[str], recipe: Recipe) -> None:
    for pair in pairs:
        key, _, values = pair.partition("=")
        for value in [values] if values.startswith("[") else values.split(","):
            if not (value.isupper() or value in ("...", "VALUE")):
                try:
                    recipe.override([f"{key}={value}"])
                except RecipeError as error:
                    raise WrongError(str(error)) from error


def _python(words: list[str]) -> None:
    if words[:2] == ["-m", "pytest"]:
        _pytest(words[2:])
    elif words[:2] == ["-m", "pip"]:
        _pip(words[2:])
    elif words and words[0].endswith(".py"):
        if not (ROOT / words[0]).exists():
            raise WrongError(f"there is no script {words[0]}")
        parser_of(ROOT / words[0]).parse_args([re.sub(r"\.\.\.$", "", word) for word in words[1:] if word != "..."])


class Parser(argparse.ArgumentParser):
    """Raises WrongError where a program would end."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise WrongError(message)


@functools.cache
def parser_of(script: Path) -> Parser:
    """Return the parser of a script's arguments as its source describes it, without running what it imports."""
    parser = Parser(add_help=False)
    source = script.read_text(encoding="utf-8")
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            names = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
            options = dict(filter(None, map(_keyword, call.keywords)))
            parser.add_argument(*names, **options)
    if "sys.argv" in source:
        parser.add_argument("anything", nargs="*")
    return parser


def _keyword(keyword: ast.keyword) -> tuple[str, object] | None:
    if keyword.arg == "type" and isinstance(keyword.value, ast.Name):
        return "type", {"int": int, "float": float, "Path": Path}[keyword.value.id]
    if keyword.arg in ("nargs", "action", "required", "choices"):
        try:
            return keyword.arg, ast.literal_eval(keyword.value)
        except ValueError:  # choices that are computed
            return None
    return None


def _pytest(words: list[str]) -> None:
    files = [ROOT / word.partition("::")[0] for word in words if ".py" in word] or list(ROOT.glob("tests/**/test_*.py"))
    if missing := [path.name for path in files if not path.exists()]:
        raise WrongError(f"there is no {missing[0]}")
    tests = [name for path in files for name in re.findall(r"^ *def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)]
    tests += [path.stem for path in files]
    chosen = words[words.index("-k") + 1].split() if "-k" in words else []
    for name in {*chosen} - {"and", "or", "not"}:
        if not any(name in test for test in tests):
            raise WrongError(f"no test is called {name}")


def _make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", text, re.MULTILINE))
    for word in words:
        name, equals, _ = word.partition("=")
        if not (f"$({name})" in text or f"$(if $({name})" in text if equals else name in targets):
            raise WrongError(f"the Makefile has no {name}")


def _pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        for extra in re.findall(r"^(?:pupila|\.).*\[([\w,]+)\]", word):
            if unknown := set(extra.split(",")) - extras.keys():
                raise WrongError(f"there is no extra {unknown}")
        if word.startswith("./") and not (ROOT / word).exists():
            raise WrongError(f"there is no {word}")


def mistakes(found: Iterable[Told]) -> list[str]:
    """Return what is wrong with commands, and where."""
    wrong = []
    for where, words in found:
        try:
            check(words)
        except WrongError as error:
            wrong.append(f"{where}: {shlex.join(words)}: {error}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_typed(page: Path) -> None:
    assert mistakes(told([page])) == []


@pytest.mark.parametrize(("files", "least"), [(PYTHON, 80), (FILES, 8)], ids=["python", "others"])
def test_every_command_that_messages_help_and_comments_name_can_be_typed(files: list[Path], least: int) -> None:
    found = told(files)
    assert len(found) >= least
    assert mistakes(found) == []


def test_commands_of_every_program_are_found() -> None:
    programs = [one.words[0] for one in told([*PAGES, *PYTHON, *FILES])]
    assert {name: programs.count(name) > 2 for name in PROGRAMS} == dict.fromkeys(PROGRAMS, True)


def test_every_example_of_the_help_can_be_typed() -> None:
    found = [Told(path, words) for path, line in examples(main, "pupila") for words in commands(line)]
    assert len(found) > 8
    assert mistakes(found) == []


def examples(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
    for name, one in command.commands.items() if isinstance(command, click.Group) else ():
        yield from examples(one, f"{path} {name}")
    yield from ((path, line.strip()) for line in (command.epilog or "").splitlines())


@pytest.mark.parametrize(
    "line",
    [
        "pupila trian photos",
        "pupila train photos --epoch 3 --nope",
        "pupila train photos --epochs many",
        "pupila train photos --recipe quik",
        "pupila train photos --set learnin_rate=0.1",
        "pupila sweep photos --grid lr=0.01,fast",
        "pupila keys neu shop",
        "pupila --colour",
        "cat a.jpg | sudo .venv/bin/pupila predikt -",
        "key=$(pupila keys nwe shop)",
        "python -m pupila trian photos",
        "python benchmarks/training/none.py",
        "python benchmarks/serving/soak.py",
        "python benchmarks/serving/soak.py MODEL.onnx --minuts 3",
        "RIVALS_PYTHON=x python benchmarks/serving/soak.py MODEL.onnx [--minutes long]",
        "python benchmarks/training/backbone.py fly WORK",
        "python -m pytest tests/test_none.py",
        "pytest tests/test_api.py -k nothing_of_the_kind",
        "make tarin",
        "make train DTAA=photos",
        "pip install -e '.[trian]'",
        "pip install ./packages/pupila-back",
        "pupila evaluate src/pupila/models/cifar100.onnx cifar10",
    ],
)
def test_a_command_that_cannot_be_typed_is_found(line: str) -> None:
    assert len(mistakes(Told("here", words) for words in commands(line))) == 1


# Options and settings that are named without a command


@functools.cache
def all_options() -> frozenset[str]:
    """Return every option of every command of Pupila."""
    return frozenset(_all_options(main))


def _all_options(command: click.Command) -> Iterator[str]:
    for one in command.commands.values() if isinstance(command, click.Group) else ():
        yield from _all_options(one)
    yield from (name for p in command.get_params(click.Context(command)) for name in p.opts)


def unknown_options(texts: Iterable[str], known: frozenset[str]) -> set[str]:
    """Return the options in texts that nothing has, and the values of --set that no recipe takes."""
    texts = list(texts)
    found = {name for text in texts for name in SET_ASIDE.findall(text)} - known - OF_OTHERS
    pairs = {pair for text in texts for pair in re.findall(r"--set (\w+=[\w.-]+)", text)}
    for pair in pairs - {"KEY=VALUE"}:
        try:
            _pairs([pair if pair.endswith("...") else pair.rstrip(".")], Recipe())
        except WrongError as error:
            found.add(f"--set {pair}: {error}")
    return found


def test_every_option_that_a_message_advises_exists() -> None:
    texts = [text for path in SOURCE.rglob("*.py") for text in strings(path) if " " in text and "var(--" not in text]
    texts += [text for path in SOURCE.glob("server/api/page/*strings.js") for text in [path.read_text("utf-8")]]
    texts += [str(entry) for entry in _openapi(json.loads((SOURCE / "server/api/openapi.json").read_text("utf-8")))]
    assert len([text for text in texts if SET_ASIDE.search(text)]) > 80
    assert unknown_options(texts, all_options()) == set()


def _openapi(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _openapi(one)


@pytest.mark.parametrize("page", NOT_OF_THE_PAST, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    of_scripts = {name for path in PYTHON for name in parser_of(path)._option_string_actions}
    texts = [code for code in re.findall(r"`([^`]+)`", prose(page)) if code.startswith("-")]
    assert unknown_options(texts, all_options() | of_scripts) == set()


@pytest.mark.parametrize("text", ["Try --learning-rate.", "Use `x` with --set learning_rat=0.1", "Use --set lr=fast."])
def test_an_option_that_does_not_exist_is_found(text: str) -> None:
    assert unknown_options([text], all_options())


def test_every_variable_that_is_named_is_read_somewhere() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in [*SOURCE.rglob("*.py"), *ROOT.glob("tests/*.py")])
    settings = {f"PUPILA_{name.removeprefix('--').replace('-', '_').upper()}" for name in all_options()}
    read = set(re.findall(r"\b_?PUPILA_[A-Z_]+\b", code)) | settings
    named = {name for path in [*PAGES, *FILES] for name in re.findall(r"\bPUPILA_[A-Z_]+\b", path.read_text("utf-8"))}
    assert len(named) >= 10
    assert named - read == set()


@pytest.mark.parametrize("extra", ["train", "parquet", "cluster", "telemetry", "tensorboard"])
def test_install_command_of_every_extra_can_be_typed(extra: str) -> None:
    (words,) = (words for words in commands(install_command(extra).replace(str(ROOT), ".")))
    check(words)


# What an error advises


MODEL = str(bundled_model())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data whose names of classes can be read in several ways."""
    folder = tmp_path_factory.mktemp("here")
    for name in (b"\x8c\xa2", b"\x94L"):
        for number in range(4):
            path = Path(os.fsdecode(os.fsencode(folder / "names") + b"/" + name)) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(path)
    return folder


@pytest.mark.parametrize(
    "line",
    [
        *(f"{one} names" for one in ("train", "sweep", "data", f"evaluate {MODEL}", f"compare {MODEL} {MODEL}")),
        "mislabelled names out",
        "train digits --weights none.pth",
        "mislabelled digits out --weights none.pth",
        "train digits --weights none --set trains=head",
        "train digits --name ../x",
        "train digits --outliers none --recipe quick",
        "train digits --labels none.csv",
        "train digits --log tensorboard --minutes 0",
        "train --resume",
        "train --resume --name none",
        "sweep digits --name ../x",
        "sweep digits --grid seed=1,2",
        "sweep digits --set lr=0.1,0.2",
        f"evaluate {MODEL} digits --split validation",
        f"evaluate {MODEL} none",
        f"drift {MODEL} none",
        "compare --runs none",
        f"compare {MODEL} {MODEL}",
        f"predict {MODEL}",
        "predict a.jpg --kaggle",
        "predict http://127.0.0.1:9/",
        "predict a.jpg --out x.csv --sort-into y",
        "predict names --out answers.jsonl --excel",
        "serve --host *",
        "serve --host /run/p.sock",
        "serve --host http://127.0.0.1:80",
        "serve --tls-key key.pem",
        "serve --cors-origins example.org",
        "serve --access-log none/log",
        "serve --api-keys none.txt",
        "feedback show none",
        "feedback delete none",
        "models rollback none.onnx",
        "keys list none.txt",
        "keys new",
        "reproduce none",
        "recipes quik",
        "inspect none.onnx",
    ],
)
def test_advice_of_an_error_can_be_typed_where_it_is_given(
    line: str, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path))
    words = line.split()
    done = CliRunner().invoke(main, words)
    assert done.exit_code in (1, 2), done.output
    assert "Traceback" not in done.output
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    known = frozenset(name for p in command.get_params(click.Context(command)) for name in p.opts)
    found = [Told(line, found) for text in in_text(done.output) for found in commands(text)]
    alone = re.sub(r"pupila \w+.*", "", done.output)
    assert unknown_options([alone], known) == set()
    assert mistakes(found) == []

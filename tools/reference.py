"""Writes docs/reference/ and docs/python-api.md from the code: commands, keys of a recipe, and the public functions.

`python tools/reference.py` writes the pages; tests/test_documents.py fails where a committed page is another one.
"""

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pupila.cli import main as pupila
from pupila.cli.group import field_docs
from pupila.recipe import ALLOWED, OPEN, Recipe, read_shipped, shipped
from pupila.server.settings import Settings

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- Written by `make docs` from the code. Change it there. -->\n\n"


def pages() -> dict[Path, str]:
    """Return each page's text by its path."""
    return {
        FOLDER / "commands.md": commands_page(),
        FOLDER / "recipes.md": recipes_page(),
        FOLDER.parent / "python-api.md": api_page(),
    }


def commands_page() -> str:
    """Every command with its arguments and options."""
    sections = [section(path, command) for path, command in commands(pupila, "pupila")]
    top = (
        "# Commands\n\n`--help` after a command says the same on the terminal. A mistake ends in one sentence and an "
        "[exit code](../errors.md#on-the-command-line).\n\n"
        "`PUPILA_NAME_ENCODING` is the encoding of file names in a data set that are not in UTF-8, like `cp850`; "
        "without it, the names decide. `PUPILA_CLASS_FOLDERS` says, where all class folders hold the same folders, "
        "whether the `outer` or the `inner` ones are the classes.\n\n"
        "`PUPILA_CACHE` names the folder for what can be fetched or made again: downloads and decoded data sets. "
        "Without it, that is `~/.cache/pupila`. Delete it when you like.\n\n"
        "`PUPILA_LANG` is the language of help, messages and report pages: `en` or `pt_BR`. Without it, the locale "
        "decides (`LC_ALL`, `LC_MESSAGES`, `LANG`).\n\n"
        "Tab completion of commands, options, recipes, data sets and models: put "
        '`eval "$(_PUPILA_COMPLETE=bash_source pupila)"` into `~/.bashrc` (`zsh_source` for zsh, `fish_source` for '
        "fish).\n\n"
    )
    return MADE + top + "\n".join(sections)


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group that is not a group itself, by name, with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, below in sorted(command.commands.items()):
        yield from commands(below, f"{path} {name}")


def section(path: str, command: click.Command) -> str:
    """One command: how it is called, what it does, its options."""
    parameters = command.get_params(click.Context(command))
    arguments = [p.make_metavar(click.Context(command)) for p in parameters if isinstance(p, click.Argument)]
    settings = {field.name for field in dataclasses.fields(Settings)} if path == "pupila serve" else set()
    options = [
        row(p) for p in parameters if isinstance(p, click.Option) and p.name not in settings and "--help" not in p.opts
    ]
    text = f"## {path}\n\n```\n{' '.join([path, *arguments])}\n```\n\n{paragraphs(command.help or '')}\n"
    if settings:
        text += "\nEach of the [settings](../http.md#settings) is an option, such as `--port 8000`.\n"
    if options:
        text += "\n| option | default | meaning |\n|---|---|---|\n" + "".join(options)
    return text


def paragraphs(help_text: str) -> str:
    """Join the lines of each paragraph; `code` in help is written in Markdown already."""
    return "\n\n".join(" ".join(part.split()) for part in help_text.split("\n\n"))


def row(option: click.Option) -> str:
    """One option as a row: its name and what it takes, its default, what it is for."""
    context = click.Context(click.Command("any"))
    takes = "" if option.is_flag else " " + option.make_metavar(context).removesuffix(" RANGE")
    text = option.help or ""
    own_default = re.search(r" ?\[default: (.+)\]", text)
    meaning = text.replace(own_default[0], "") if own_default else text
    default = own_default[1] if own_default else stated(option)
    if isinstance(option.type, click.IntRange | click.FloatRange):
        meaning += f" {between(option.type)}."
    if option.multiple and "several times" not in meaning:
        meaning += " May be given several times."
    return f"| {cell('`' + option.opts[0] + takes + '`')} | {cell(default)} | {cell(meaning.strip())} |\n"


def between(kind: click.IntRange | click.FloatRange) -> str:
    """Return a range in words."""
    return f"{kind.min} or more" if kind.max is None else f"{kind.min} to {kind.max}"


def stated(option: click.Option) -> str:
    """Return a default that is one; flags and options that may be left out have none."""
    value = option.default
    return "" if option.is_flag or option.multiple or not isinstance(value, str | int | float | Path) else f"`{value}`"


def recipes_page() -> str:
    """Every key of a recipe, and the shipped recipes as they are."""
    docs = field_docs(Recipe)
    rows = [
        f"| `{field.name}` | `{json.dumps(field.default)}` | {cell(allowed(field.name))} | {cell(docs[field.name])} |\n"
        for field in dataclasses.fields(Recipe)
    ]
    texts = [f"\n### {name}\n\n```toml\n{read_shipped(name).strip()}\n```\n" for name in shipped()]
    return (
        MADE + "# Recipes\n\nA recipe is a TOML file with any of these keys; the others keep their defaults. Use a "
        "shipped one by its name, yours by its path (`--recipe mine.toml`), and change single values with `--set "
        "KEY=VALUE`. A mistake is named with the right key or range. `pupila recipes --keys` prints this table.\n\n"
        "## Keys\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n"
        + "".join(rows)
        + "\n## Shipped recipes\n\nEach begins with what it is for, its command, and what was measured.\n"
        + "".join(texts)
    )


def allowed(key: str) -> str:
    """Return what a key may be, in a few words."""
    if key in ALLOWED and isinstance(ALLOWED[key][0], str):
        return ", ".join(f"`{choice}`" for choice in ALLOWED[key])
    if key in ALLOWED:
        low, high = ALLOWED[key]
        chosen = "0 (chosen from the data), " if key in OPEN else ""
        return chosen + " to ".join(f"{bound:.0f}" if bound == int(bound) else f"{bound:g}" for bound in (low, high))
    return {bool: "`true`, `false`", str: "text"}.get(type(getattr(Recipe(), key)), "pairs of size and share")


API = {
    "Predict": ("load", "Predictor.predict", "Prediction", "Choice"),
    "Train": ("train", "TrainResult", "load_recipe"),
    "Evaluate": ("evaluate", "PartEvaluation", "load_dataset"),
    "Serve": ("create_app", "serve", "Client", "Client.predict", "Client.model", "Client.ready"),
}
"""What the page of the Python API shows, by section."""
API_START = """# Python

`import pupila` is all that a program needs; it loads neither NumPy nor PyTorch before they are used. Predicting and
serving need the base install, training needs the `train` extra.

```python
import pupila

model = pupila.load("model.onnx")                 # pupila.load() is the model that comes with Pupila
p = model.predict("horse.jpg")                    # Prediction('horse', 0.979)
p.category, p.confidence, p.unknown, p.top
ps = model.predict(["a.jpg", "b.jpg"], top=3)     # a list gives a list, in order

run = pupila.train("photos", minutes=2)
run.model, run.accuracy, run.interval, run.history, run.report
pupila.evaluate("model.onnx", "photos").accuracy
pupila.load_dataset("photos").train

app = pupila.create_app("model.onnx")             # any WSGI server
pupila.serve("model.onnx", port=3000)
pupila.Client("http://127.0.0.1:3000").predict("horse.jpg", top=3, explain=True)
```

Wrong input raises a `PupilaError` or a `TypeError` of one sentence; [Errors](errors.md#from-python) lists the classes
and their codes. Pupila prints nothing: it logs to `logging.getLogger("pupila")`. To see a training's lines:
`logging.basicConfig(level=logging.INFO)`. The options of `serve` and `create_app` are the
[settings](http.md#settings). A notebook that trains, looks at mistakes and serves is in `examples/pupila.ipynb`.
"""


def api_page() -> str:
    """The public functions and classes, from their docstrings."""
    sections = [
        f"\n## {title}\n\n" + "\n".join(api_entry(name, found(name)) for name in names) for title, names in API.items()
    ]
    return MADE + API_START + "".join(sections)


def found(name: str) -> Any:
    """Return what a name of the page stands for."""
    homes = {
        "Choice": "pupila.prediction",
        "TrainResult": "pupila.training.train",
        "PartEvaluation": "pupila.evaluation.evaluate",
    }
    value: Any = importlib.import_module(homes.get(name, "pupila"))
    for part in name.split("."):
        value = getattr(value, part)
    return value


def api_entry(name: str, value: Any) -> str:
    """One function with its parameters, or one class with its fields and properties."""
    if not isinstance(value, type):
        return f"### {name}{parameters(value)}\n\n{paragraphs(inspect.getdoc(value) or '')}\n"
    takes = parameters(value.__init__) if value.__name__ == "Client" else ""
    rows = "".join(f"| `{field}` | {cell(doc)} |\n" for field, doc in members(value).items())
    table = f"\n| attribute | meaning |\n|---|---|\n{rows}" if rows and not takes else ""
    return f"### {name}{takes}\n\n{paragraphs(inspect.getdoc(value) or '')}\n{table}"


def parameters(function: Any) -> str:
    """Return the parameters as a person would write them: names and defaults."""
    plain = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values() if p.name != "self"]
    known = (str, int, float, tuple, type(None))
    plain = [p if p.default is p.empty or isinstance(p.default, known) else p.replace(default=...) for p in plain]
    return str(inspect.Signature(plain)).replace("Ellipsis", "...")


def members(cls: type) -> dict[str, str]:
    """Return the fields and properties of a class, inherited ones too, with what their docstrings say."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        docs |= field_docs(base)
        docs |= {k: inspect.getdoc(v) or "" for k, v in vars(base).items() if isinstance(v, property)}
    return {name: " ".join(doc.split()) for name, doc in docs.items()}


def cell(text: str) -> str:
    """Return text that is safe within a table."""
    return text.replace("|", "\\|")


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

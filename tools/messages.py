"""Collects the messages that people read and keeps the catalogue of their Portuguese: `python tools/messages.py`.

Sources hold plain English f-strings. Each becomes a msgid with numbered fields, `{0}: holds a run already.`; a field of
figures keeps its format, `{1:,}`. Translations that are there stay; a message that is gone leaves the catalogue. Write
the new ones into the .po file by hand; tests/test_language.py says what is missing. In a translation `{0!t}` translates
the inserted text though it is a single word, and `{0!r}` leaves figures as they are.
"""

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

from pupila._arguments import plural

SOURCE = Path(__file__).parents[1] / "src" / "pupila"
CATALOGUE = SOURCE / "locale" / "pt_BR" / "LC_MESSAGES" / "pupila.po"

ENGLISH_ONLY = (
    "server/api/", "server/transport/", "server/observability/", "server/inference", "server/app.py",
    "feedback/schema.py", "_language.py", "cluster/retries.py",
)  # fmt: skip
"""The HTTP API, and the log of a server, which programs read."""
ALSO = ("server/api/auth.py", "server/transport/tls.py")
"""Of these what the command line shows when a server starts."""
NOT_FOR_PEOPLE = frozenset(
    """TypeError AssertionError RuntimeError KeyError compile sub search match fullmatch findall finditer getLogger
    execute executemany executescript filterwarnings startswith endswith removesuffix removeprefix encode decode
    field_size_limit getattr setattr import_module examples Literal TypeVar NewType metavar""".split()  # noqa: SIM905
)
"""Names of calls and keywords whose text is not printed."""
LABELS = frozenset(
    """section heading table numbers plot pictures folded warning page progress_bar set_title set_xlabel set_ylabel
    _axes _line _plot help _twins_section counted translated""".split()  # noqa: SIM905
)
"""Calls and keywords whose text may be of one word."""
ALONE = (
    "Usage: {0}", "Examples:", "[default: {0}]", "[default: {0}; {1}]", "[required]", "Commands:", "Options:",
    "[OPTIONS]", "COMMAND", "[ARGS]...",
    "File", "Directory", "Path", "{0:.1f} s", "{0:.1f} : 1", "'{0}' and '{1}'", "{0}/ and {1}/",
    "{0:.3f} to {1:.3f}", "{0:.3f} ({1:.3f} to {2:.3f})",
    "model", "classes", "accuracy", "pictures", "weights", "recipe", "unknown", "more", "train", "validation",
    "test", "all", "held out", "none",
    "copy", "link", "loss", "training", "temperature", "leaked", "listed", "agreement",
    "boxes", "parts", "width", "height", "label", "surer", "trials", "failed", "examples/s", "run", "epochs", "folder",
    "folders", "hidden folders", "empty folders", "noise", "text", "of noise", "of flat colours", "of shuffled patches",
    "of small crops", "of validation pictures",
    "Confidence: changed", "Confidence: no change", "Unknown: changed", "Unknown: no change", "Class mix: changed",
    "G = {0:.3g}, {1}", "p < {0:.1g}", "p = {0:.2g}",
    "of {0:,}", "{0:g} requests/s", "{0:g} pictures/s",
    "Give the path of a .onnx model file.",
    "Permission denied", "No space left on device", "No such file or directory", "Is a directory", "Not a directory",
    "File exists", "Name or service not known",
    "Read-only file system", "Address already in use", "Connection refused", "File name too long",
)  # fmt: skip
"""What is printed and cannot be found in the sources: what click puts around a text,
words that stand alone, and what the system says of files."""
CODE = re.compile(
    r"(?<!/)<[a-z/!]|</|\{ |max-width|default-src|@media|class=|lower right|upper left|%\("  # pages and plots
    r"|SELECT |INSERT |CREATE |PRAGMA|UPDATE |DELETE FROM|WHERE |ORDER BY| IS NULL|IS NOT NULL|:owner|LIMIT :|ifnull\("
    r"|^[a-z]+\.png$|^[A-Za-z]+\[.*\]$|^\w+ \| \w+|^,? ?unknown=|^values? = |^Prediction\(|^pupila\[|^module "
    r"|Content-Disposition|Bearer \{|multipart/|Raw profile|Failed to launch|\|/"
    r"|^system volume information$|^network trash folder$|^temporary items$"
    r"|DeprecationWarning|declar|Boolean option|iterable|defined twice"  # what click says to programmers
)
"""Texts that are no messages, or that nobody at a command line sees."""
HEADER = b"""msgid ""
msgstr "Language: pt_BR\\nContent-Type: text/plain; charset=utf-8\\n"

"""
PLAIN = re.compile(r"^[\w./+:-]+$")
WORDS = re.compile(r"(?<![\w/.-])[A-Za-z]{2,}(?![\w/-])")
FIELD = re.compile(r"(?<!\{)\{(\w+)(?:![rs])?((?::[^{}]*)?)\}")
FIGURES = re.compile(r"[-+,]?[\d ]*[,.]?\d*[fge%d,]")


def template(node: ast.expr) -> str:
    """Return a literal or an f-string as a msgid: constants as they are, other fields numbered."""
    if isinstance(node, ast.Constant):
        places = itertools.count()
        return re.sub(r"(?<![\d ])%[sd]|(?<= )%[sd]", lambda _: f"{{{next(places)}}}", str(node.value))
    text, number = "", 0
    for part in node.values if isinstance(node, ast.JoinedStr) else ():
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("{", "{{").replace("}", "}}")
        elif isinstance(part, ast.FormattedValue):
            spec = ast.unparse(part.format_spec)[2:-1] if part.format_spec else "," * (called(part.value) == "len")
            if isinstance(part.value, ast.Constant):
                text += format(part.value.value, spec)
            else:
                text += f"{{{number}:{spec}}}" if FIGURES.fullmatch(spec) else f"{{{number}}}"
                number += 1
    return text


def called(node: ast.AST) -> str:
    """Return the name of what is called, or of the keyword."""
    if isinstance(node, ast.keyword):
        return node.arg or ""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_command(node: ast.FunctionDef) -> bool:
    """Whether a function is a command of click, whose docstring is its help."""
    return any(called(decorator) in ("command", "group") for decorator in node.decorator_list)


def found_in(node: ast.AST, label: bool = False) -> Iterator[str]:
    """Yield the messages below a node of the tree; label: one word is a message, too."""
    if called(node) in NOT_FOR_PEOPLE or isinstance(node, ast.Compare | ast.arguments):
        return
    label = label or called(node) in LABELS
    yield from own_messages(node, label)
    for child in [node.value] if isinstance(node, ast.Subscript) else ast.iter_child_nodes(node):
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not docstring and not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from found_in(child, label and not isinstance(child, ast.FormattedValue))


def own_messages(node: ast.AST, label: bool) -> Iterator[str]:
    """Yield the messages of one node: of a text, of something counted, or of documentation that is printed."""
    if isinstance(node, ast.ClassDef) and node.name in ("Recipe", "Settings"):
        yield from kept("\n".join(field_docs(node)), label=False)
    if isinstance(node, ast.FunctionDef) and is_command(node):
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            yield from kept(" ".join(paragraph.split()), label=False)
    if isinstance(node, ast.Call) and called(node) == "counted" and isinstance(node.args[1], ast.Constant):
        yield from (f"{{0:,}} {node.args[1].value}", f"{{0:,}} {plural(str(node.args[1].value))}")
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield from kept(template(node), label)


def field_docs(node: ast.ClassDef) -> Iterator[str]:
    """Yield what is written below each field of a class, on one line."""
    for field, below in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield " ".join(str(below.value.value).split())


def numbered(line: str) -> str:
    """Return a line with its fields numbered from 0."""
    names: dict[str, int] = {}
    return FIELD.sub(lambda field: f"{{{names.setdefault(field[1], len(names))}{field[2]}}}", line)


def kept(text: str, label: bool) -> Iterator[str]:
    """Yield the lines of a text that hold words."""
    for line in text.split("\n"):
        line = numbered(line.strip().removeprefix(", ").removeprefix("; "))
        plain = re.sub(r"`[^`]*`|\{[^{}]*\}", " ", line)
        words = WORDS.findall(plain)
        label = label or (" " in line and bool(re.search(r"[a-z]{4,}", "".join(words))))
        if words and not CODE.search(line) and (label or (len(words) > 1 and not PLAIN.search(line))):
            yield line


def words_of_click() -> Iterator[str]:
    """Yield the messages that click marks as such."""
    for module in (click.core, click.exceptions, click.formatting, click.decorators, click.parser, click.types):
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and called(node) in ("_", "ngettext"):
                yield from (
                    line
                    for part in node.args
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    for line in kept(part.value.replace("\n", " "), label=True)
                )


def messages() -> dict[str, str]:
    """Return every message with the file that it is first found in."""
    found = dict.fromkeys(ALONE, "src/pupila/cli/group.py") | dict.fromkeys(words_of_click(), "click")
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(ENGLISH_ONLY) and name not in ALSO:
            continue
        for text in found_in(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(text, f"src/pupila/{name}")
    for path in sorted(SOURCE.glob("recipes/*.toml")):  # `pupila recipes` prints their first lines
        found[path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")] = f"src/pupila/recipes/{path.name}"
    return found


def main() -> None:
    """Write the catalogue anew, with the translations that it has."""
    before = read_po(CATALOGUE.open("rb")) if CATALOGUE.exists() else Catalog()
    new = Catalog(locale="pt_BR", project="Pupila", fuzzy=False, header_comment="# Portuguese of Pupila's messages.")
    for msgid, name in messages().items():
        known = before.get(msgid)
        new.add(msgid, known.string if known else "", locations=[(name, 0)])
    CATALOGUE.parent.mkdir(parents=True, exist_ok=True)
    with CATALOGUE.open("wb") as file:
        file.write(HEADER)
        write_po(file, new, width=0, include_lineno=False, omit_header=True)
    open_ones = sum(not entry.string for entry in new if entry.id)
    sys.stdout.write(f"{len(new):,} messages, {open_ones:,} of them without a translation, in {CATALOGUE}\n")


if __name__ == "__main__":
    main()

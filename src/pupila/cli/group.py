"""What commands share: how errors end, common options, examples in help, and tab completion.

Exit codes: 0 done, 1 a PupilaError (one sentence on standard error), 2 wrong usage, 130 stopped by Ctrl-C.
"""

import ast
import inspect
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pupila._language import translated
from pupila.errors import PupilaError
from pupila.progress import printable, printable_lines, printed_log, shown

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pupila.predictor import Predictor

Command = TypeVar("Command", bound=Callable[..., Any])


class HelpFormatter(click.HelpFormatter):
    """Writes help in the reader's language."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write how a command is called."""
        args = " ".join(map(translated, args.split()))
        super().write_usage(prog, args, translated(prefix or "Usage:").strip() + " ")

    def write_heading(self, heading: str) -> None:
        """Write the heading of a section."""
        super().write_heading(translated(heading))

    def write_text(self, text: str) -> None:
        """Write paragraphs; the lines of one that begins with \\b stay as they are."""
        paragraphs = (
            translated(part if part.startswith("\b") else " ".join(part.split())) for part in text.split("\n\n")
        )
        super().write_text("\n\n".join(paragraphs))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names with what each of them means."""
        super().write_dl([(name, translated(" ".join(text.split()))) for name, text in rows], col_max, col_spacing)


click.Context.formatter_class = HelpFormatter


class UncutGroup(click.Group):
    """A group whose help shows whole sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List each command with the first sentence of its help, uncut."""
        rows = [
            (name, " ".join((command.help or "").split("\n\n")[0].split())) for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))


class PupilaGroup(UncutGroup):
    """Turns the errors that a user can act on into one sentence and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; what click says of wrong usage is shown as all else is: translated, and only text."""
        run: Callable[..., Any] = super().main
        if not extra.get("standalone_mode", True):
            return run(*args, **extra)
        try:
            sys.exit(run(*args, **{**extra, "standalone_mode": False}))
        except click.ClickException as error:
            text = io.StringIO()
            error.message = printable(error.message)  # type: ignore[misc]  # names of files make no lines
            error.show(text)
            click.echo(translated(printable_lines(*text.getvalue().split("\n"))), err=True, nl=False)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo(translated("Aborted!"), err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the module's docstring for the exit codes."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text in any encoding
        try:
            with printed_log():
                return super().invoke(ctx)
        except PupilaError as error:
            name = click.style("pupila:", fg="red") if "NO_COLOR" not in os.environ else "pupila:"
            click.echo(f"{name} " + shown(str(error)), err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo(translated("pupila: stopped."), err=True)
            sys.exit(130)


class RenamedOption(click.Option):
    """An option that is still found under its earlier names; help shows the first name only."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option's row in the help."""
        names = self.opts
        self.opts = names[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


def say(*lines: str) -> None:
    """Print lines in the reader's language."""
    for line in lines:
        click.echo(shown(line))


def load_model(path: Path) -> "Predictor":
    """Load a model file for a command; imports what that needs only then."""
    from pupila.predictor import Predictor

    return Predictor.load(path)


def json_option(command: Command) -> Command:
    """The one --json flag."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(command)


def json_lines_option(command: Command) -> Command:
    """The --json flag of commands that answer line by line."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")(command)


def cluster_option(purpose: str) -> Callable[[Command], Command]:
    """The one --cluster option; `purpose` says in a few words what is done there."""
    where = "on the Ray cluster at HOST:PORT, or as found on this machine"
    return click.option(
        "--cluster", is_flag=False, flag_value="here", metavar="[ADDRESS]", help=purpose.format(where=where)
    )


def field_docs(cls: type) -> dict[str, str]:
    """Return what the docstring under each field of a dataclass says, on one line: help that cannot go stale."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return docs


def examples(*commands: str) -> str:
    """Return the end of a command's help: one command a line, as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def shipped_recipes(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Return shipped recipes, and files."""
    from pupila.recipe import shipped

    return _items(shipped(), incomplete)


def data_sets(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Return the data sets that have a name, and files."""
    return _items(["cifar10", "digits"], incomplete)


def models_here(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Return the models of the runs here, and files."""
    return _items(sorted(map(str, Path().glob("runs/*/model.onnx"))), incomplete)


def _items(names: list[str], incomplete: str) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *found]

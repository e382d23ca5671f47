"""Tab completion of recipes, data sets and model files, and examples in the help of commands."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def examples(*commands: str) -> str:
    """Return the end of a command's help: one command a line, as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def recipes(_: "click.Context", __: "click.Parameter", incomplete: str) -> "list[CompletionItem]":
    """Return shipped recipes, and files."""
    from pupila.recipe import shipped

    return _items(shipped(), incomplete)


def data_sets(_: "click.Context", __: "click.Parameter", incomplete: str) -> "list[CompletionItem]":
    """Return the data sets that have a name, and files."""
    return _items(["cifar10", "digits"], incomplete)


def models(_: "click.Context", __: "click.Parameter", incomplete: str) -> "list[CompletionItem]":
    """Return the models of the runs here, and files."""
    return _items(sorted(map(str, Path().glob("runs/*/model.onnx"))), incomplete)


def _items(names: list[str], incomplete: str) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *found]

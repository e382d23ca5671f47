"""`pupila serve`: one option for each of the server's settings."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from pupila.cli.group import cluster_option, field_docs


class ServeCommand(click.Command):
    """Has one option for each of the server's settings, made when asked for: other commands do not load the server."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the arguments and options, the settings' among them."""
        from pupila.server.settings import Settings

        docs = field_docs(Settings)
        known = {parameter.name for parameter in self.params}
        for field in dataclasses.fields(Settings):
            if field.name not in known:
                self.params.append(_settings_option(field, docs.get(field.name)))
        return super().get_params(ctx)


def _settings_option(field: "dataclasses.Field[Any]", doc: str | None) -> click.Option:
    """A number or a text as it is; a tuple as an option that may be given several times; keys as a file of them."""
    flag = "--" + field.name.replace("_", "-")
    if field.name == "api_keys":
        return click.Option(
            [flag], type=click.Path(path_type=Path), help="File of API keys. Without it everybody may ask."
        )
    if field.type == (str | None):
        return click.Option([flag], help=doc)
    if field.default is None:
        return click.Option([flag], type=click.Path(path_type=Path), help=doc)
    if isinstance(field.default, tuple):
        return click.Option([flag], multiple=True, help=f"{doc} May be given several times.")
    return click.Option([flag], type=type(field.default), default=field.default, show_default=True, help=doc)


@click.command(cls=ServeCommand)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@cluster_option("Serve by Ray Serve {where}; a new MODEL is rolled out.")
def serve(model: Path | None, cluster: str | None, **chosen: Any) -> None:
    """Serve MODEL, or the bundled CIFAR-10 model, as an HTTP API."""
    from pupila.models import bundled_model
    from pupila.server import Settings
    from pupila.server import serve as run
    from pupila.server.api.auth import read_keys

    keys = read_keys(chosen["api_keys"]) if chosen["api_keys"] else ()
    settings = Settings(**{**chosen, "api_keys": keys})
    if cluster is None:
        run(model or bundled_model(), settings)
        return
    from pupila.cluster.serve import serve_on_cluster

    url = serve_on_cluster(model or bundled_model(), settings, cluster)
    click.echo(f"Serving on every node, here at {url}. Stop with: serve shutdown")

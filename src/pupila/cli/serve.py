"""`pupila serve`: one option for each of the server's settings."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import click

from pupila.cli.group import RenamedOption, cluster_option, field_docs, say

EARLIER = {
    "request_timeout": "--deadline",
    "keepalive_timeout": "--idle",
    "graceful_timeout": "--drain",
    "max_connections": "--connections",
    "feedback_dir": "--collect",
    "feedback_max_bytes": "--collect-max-bytes",
}
"""What options were called in version 0.1; these names are still taken."""
FOREIGN = re.compile(r"(tcp|udp|sctp)://")
"""How a variable begins that Kubernetes sets for a service: PUPILA_PORT=tcp://10.0.0.1:3000 is the address of another
server, if a service is called `pupila`."""


class EnvironmentOption(RenamedOption):
    """An option that PUPILA_<OPTION> gives where the command line does not; for the port, PORT comes after that."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:  # noqa: ARG002 - click's signature
        """Return what the first variable says that is set, not empty, and not Kubernetes's address of a service."""
        for name in self.variables():
            value = os.environ.get(name, "")
            if value and not (self.name == "port" and FOREIGN.match(value)):
                return value.replace(",", " ") if self.multiple else value
        return None

    def variables(self) -> list[str]:
        """Return the names of the variables that are read, in their order."""
        own = f"PUPILA_{(self.name or '').upper()}"
        return [own, "PORT"] if self.name == "port" else [own]

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Name the variable, where a wrong value came from one."""
        if ctx is not None and ctx.get_parameter_source(self.name or "") == click.core.ParameterSource.ENVIRONMENT:
            return " / ".join(name for name in self.variables() if os.environ.get(name))
        return f"'{self.opts[0]}'"


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
    names = ["--" + field.name.replace("_", "-")]
    if field.name in EARLIER:
        names.append(EARLIER[field.name])
    if field.name == "api_keys":
        return EnvironmentOption(
            names, type=click.Path(path_type=Path), help="File of API keys. Without it everybody may ask."
        )
    if field.type == (str | None):
        return EnvironmentOption(names, help=doc)
    if field.default is None:
        return EnvironmentOption(names, type=click.Path(path_type=Path), help=doc)
    if isinstance(field.default, tuple):
        return EnvironmentOption(names, multiple=True, help=f"{doc} May be given several times.")
    return EnvironmentOption(names, type=type(field.default), default=field.default, show_default=True, help=doc)


@click.command(cls=ServeCommand)
@click.argument("model", type=click.Path(path_type=Path), required=False, envvar="PUPILA_MODEL")
@cluster_option("Serve by Ray Serve {where}; a new MODEL is rolled out.")
def serve(model: Path | None, cluster: str | None, **chosen: Any) -> None:
    """Serve MODEL, or the bundled CIFAR-10 model, as an HTTP API.

    Each option can also come from the environment, by its name after PUPILA_: `PUPILA_PORT` stands for `--port`, with
    `PORT` as the second choice, `PUPILA_WORKERS` for `--workers`, `PUPILA_REQUEST_TIMEOUT` for `--request-timeout`, and
    `PUPILA_MODEL` for MODEL. The command line comes first.
    """
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
    say(f"Serving on every node, here at {url}. Stop with: serve shutdown")

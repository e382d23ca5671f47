"""The HTTP API as an application of Ray Serve: replicas on all nodes, more of them when requests wait.

`Replica` is the application of pupila.server, one a core. Ray Serve's proxies hand requests to replicas, and retry on
another one if a replica is lost (retries.py).

    serve run pupila.cluster.serve:app model=/models/model.onnx        does without `pupila serve --cluster`
"""

import asyncio
import contextlib
import io
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from starlette.requests import Request
from starlette.responses import Response
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response as WSGIResponse

from pupila._arguments import whole_number
from pupila.cluster.connect import HERE, connected, cpus, first_line
from pupila.cluster.places import ONGOING, WORKERS
from pupila.cluster.retries import HOOK, UPLOAD, reads_body, response
from pupila.errors import ModelError, SettingsError
from pupila.models import bundled_model
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import AccessControl, route_of
from pupila.server.api.errors import too_slow
from pupila.server.api.request_context import KEY, RequestContext
from pupila.server.model_versions import warm_up
from pupila.server.transport.admission import body_refusal
from pupila.server.transport.parser import Head

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

NAME = "pupila"
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "100"}
"""In place of 5 s, thrice: on a busy machine a proxy takes longer to start, and would be started again and again."""
TARGET = 4
"""Requests a replica that Ray Serve aims at; with more on average, it starts another."""


class Replica:
    """One replica: a model file, verified, behind the same application as everywhere."""

    def __init__(self, path: str, version: str, settings: Settings) -> None:
        """A path whose file is not of this version fails, and the replicas before it go on."""
        predictor = Predictor.load(Path(path))
        if predictor.version != version:
            raise ModelError(f"{path}: is version {predictor.version} here, and {version} where it was deployed.")
        warm_up(predictor)
        self._access = AccessControl(settings.api_keys, settings.cors_origins)
        self._app = create_app(predictor, settings, access=self._access)
        self._settings = settings
        self._threads = ThreadPoolExecutor(ONGOING, "answering")

    async def __call__(self, request: Request) -> Response:
        """Answer one request; several at a time share the computation."""
        environ = await environ_of(request, self._settings, self._access)
        return await asyncio.get_running_loop().run_in_executor(self._threads, answer, self._app, environ)


async def environ_of(request: Request, settings: Settings, access: AccessControl) -> dict[str, Any]:
    """Return a request as WSGI's environment, with what was decided about it before its body is read."""
    environ = EnvironBuilder(
        method=request.method,
        headers=[(name, value) for name, value in request.headers.items() if name != "transfer-encoding"],
        input_stream=io.BytesIO(),  # without one it would make a form, with a boundary of its own
        environ_base={"REMOTE_ADDR": request.client.host if request.client else ""},
    ).get_environ()
    path = request.scope["path"].encode().decode("latin-1")  # an URL is taken apart anew, without line ends and tabs
    environ["QUERY_STRING"] = request.scope["query_string"].decode("latin-1")
    context = RequestContext(route_of(path).name, time.monotonic() + settings.request_timeout, environ["REMOTE_ADDR"])
    context.access = access.decide(request.method, path, environ)
    length = whole_number(request.headers.get("content-length", "")) or 0
    head = Head(request.method, "", path, "", "", environ, length, False, False, False)
    refusal, body = context.access.refusal or body_refusal(head, settings), bytearray()
    if refusal is None and reads_body(request.method, path):
        try:
            async with asyncio.timeout(settings.request_timeout):
                async for piece in request.stream():
                    body += piece
                    if len(body) > settings.max_body_bytes:
                        break
        except TimeoutError:
            refusal = too_slow(settings.request_timeout)
    context.access = replace(context.access, refusal=refusal)
    found = {"PATH_INFO": path, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), KEY: context}
    return {**environ, **found}


def answer(app: "WSGIApplication", environ: dict[str, Any]) -> Response:
    """Ask a WSGI application."""
    done = WSGIResponse.from_app(app, environ, buffered=True)
    return response(done.status_code, done.headers.to_wsgi_list(), done.get_data())


def application(model: Path, settings: Settings, replicas: int, cores: int) -> serve.Application:
    """Put the application together for a model file, which every node must have under the same path.

    replicas: at most. At least there are two, or as many as the cluster has cores: Ray Serve would wait for the others.
    With another file than before, Ray Serve replaces replica by replica, and those that go finish what they have.
    """
    version = Predictor.load(model).version
    deployment = serve.deployment(
        max_ongoing_requests=ONGOING,
        max_queued_requests=settings.max_waiting,
        autoscaling_config={
            "min_replicas": min(2, replicas, cores),
            "max_replicas": replicas,
            "target_ongoing_requests": TARGET,
        },
        graceful_shutdown_timeout_s=settings.graceful_timeout,
        ray_actor_options={"num_cpus": 1},
    )(Replica)
    made: serve.Application = deployment.bind(str(model.resolve()), version, settings)
    return made


def app(options: dict[str, str]) -> serve.Application:
    """Make the application for Ray's own `serve run` and `serve deploy`; `model` and `replicas` may be given."""
    model = Path(options.get("model") or bundled_model())
    return application(model, Settings(), int(options.get("replicas") or 2), cpus())


def serve_on_cluster(model: Path, settings: Settings, address: str = HERE) -> str:
    """Serve a model on the cluster that runs at an address, or roll it out there; return where it listens.

    Returns when every replica has the model; they go on serving. Raises SettingsError, also where Ray Serve runs with
    another host or port, or ModelError if it cannot be loaded: then the replicas before it go on.
    """
    if settings.feedback_dir is not None:
        raise SettingsError("--feedback-dir keeps pictures on one machine. Leave it out on a cluster.")
    if settings.tls_certificate or settings.forwarded_allow or settings.host.startswith("unix:"):
        fix = "Leave out TLS, --forwarded-allow and unix:, and put a proxy in front."
        raise SettingsError(f"Ray's own proxies take the requests in on a cluster. {fix}")
    with connected(address, start=False):
        replicas = settings.workers or cpus()
        made = application(model, settings, replicas, cpus())
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        variables = {**HOOK, **PATIENCE, UPLOAD: str(settings.request_timeout), WORKERS: str(replicas)}
        slow = contextlib.suppress(TimeoutError)  # on a busy machine proxies take longer than the minute that Ray waits
        try:
            with slow:
                serve.start(
                    ProxyLocation.EveryNode,
                    HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=settings.request_timeout),
                    controller_options={"runtime_env": {"env_vars": variables}},
                )  # fmt: skip
            _check_address(settings)
            with slow:
                serve.run(made, name=NAME, route_prefix="/")
        except (RayError, RuntimeError) as error:
            reason = first_line(error)
            raise ModelError(
                f"{model}: could not be deployed ({reason}). `serve status` and Ray's logs say more; a free --port may "
                "help, and `serve shutdown` before another try."
            ) from error
    return f"http://{settings.host}:{settings.port}"


def _check_address(settings: Settings) -> None:
    """Raise SettingsError if Ray Serve listens elsewhere: it keeps the address that it was started with."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    running = (client.http_config.host, client.http_config.port)
    if running != (settings.host, settings.port):
        raise SettingsError(
            f"Ray Serve runs on this cluster already, at {running[0]}, port {running[1]}. Give --host {running[0]} "
            f"--port {running[1]} to roll a model out there, or stop it first with `serve shutdown`."
        )

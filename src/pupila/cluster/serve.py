"""The HTTP API as an application of Ray Serve: replicas on all nodes, more of them when requests wait.

`Replica` is the application of pupila.server, one a core. `Ingress` takes requests from Ray Serve's proxies: it holds
no model, and retries on another replica if one is gone; the proxies retry if an ingress is gone (door.Again). A retry
does no harm, since answering changes nothing.

    serve run pupila.cluster.serve:app model=/models/model.onnx        does without `pupila serve --cluster`
"""

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ray import serve
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from pupila.cluster.connect import HERE, connected, cpus
from pupila.cluster.door import HOOK, TRIES, Asked, Reply, call, problem, read, response
from pupila.errors import ModelError, SettingsError
from pupila.models import bundled_model
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.errors import RequestError
from pupila.server.model_versions import warm_up

NAME = "pupila"
ONGOING = 8
"""Requests that a replica has in its hands at most: as many pictures as are computed together."""
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
        self._app = create_app(predictor, settings)
        self._threads = ThreadPoolExecutor(ONGOING, "answering")

    async def __call__(self, asked: Asked) -> Reply:
        """Answer one request; several at a time share the computation."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, self._app, asked)


class Ingress:
    """Hands requests to replicas, each until one has answered it or its deadline is over."""

    def __init__(self, model: "DeploymentHandle[Reply]", settings: Settings) -> None:
        self._model = model
        self._settings = settings

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                return response(await self._ask(await read(request, self._settings.max_body_bytes)))
        except TimeoutError:
            message = "The answer was not ready by the request's deadline."
            return problem(RequestError(504, "deadline_exceeded", message))
        except BackPressureError:
            message = "The server has more to do than it can answer in time. Try again later."
            return problem(RequestError(503, "overloaded", message, retry_after=1))

    async def _ask(self, asked: Asked) -> Reply:
        for left in reversed(range(TRIES)):
            try:
                reply: Reply = await self._model.remote(asked)
                return reply
            except (RayActorError, ObjectLostError):  # the replica is gone, and what it had in its hands
                if not left or not asked.repeatable:
                    raise
        raise AssertionError("the last try returns or raises")


def application(model: Path, settings: Settings, replicas: int, cores: int) -> serve.Application:
    """Put the application together for a model file, which every node must have under the same path.

    replicas: at most. At least there are two, or as many as the cluster has cores: Ray Serve would wait for the others.
    With another file than before, Ray Serve replaces replica by replica, and those that go finish what they have.
    """
    version = Predictor.load(model).version
    held = serve.deployment(
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
    ingress = serve.deployment(
        num_replicas=2,
        max_ongoing_requests=settings.max_connections,
        graceful_shutdown_timeout_s=settings.graceful_timeout,
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    made: serve.Application = ingress.bind(held.bind(str(model.resolve()), version, settings), settings)
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
        made = application(model, settings, settings.workers or cpus(), cpus())
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        slow = contextlib.suppress(TimeoutError)  # on a busy machine proxies take longer than the minute that Ray waits
        try:
            with slow:
                serve.start(
                    ProxyLocation.EveryNode, HTTPOptions(host=settings.host, port=settings.port),
                    controller_options={"runtime_env": {"env_vars": {**HOOK, **PATIENCE}}},
                )  # fmt: skip
            _check_address(settings)
            with slow:
                serve.run(made, name=NAME, route_prefix="/")
        except (RayError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
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

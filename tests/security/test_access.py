"""Every route, every scope: what a request may do without a key, with a wrong one, and with one of each scope."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from server_kit import write_model

from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import SCOPES, ApiKey, digest_of, route_of

ANYBODY = {"none", "wrong", *SCOPES}
ANY_KEY = {*SCOPES}
PREDICT = {"predict", "admin"}
METRICS = {"metrics", "admin"}
KEPT = {"feedback", "review", "admin"}
ALLOWED = {
    "/": ANYBODY,
    "/page/<name>": ANYBODY,
    "/review": ANYBODY,
    "/docs": ANYBODY,
    "/healthz": ANYBODY,
    "/readyz": ANYBODY,
    "/ping": ANYBODY,
    "/v2/health/live": ANYBODY,
    "/v2/health/ready": ANYBODY,
    "/predict": PREDICT,
    "/predictions/<name>": PREDICT,
    "/predictions/<name>/<version>": PREDICT,
    "/v2": PREDICT,
    "/v2/models/<name>": PREDICT,
    "/v2/models/<name>/versions/<version>": PREDICT,
    "/v2/models/<name>/ready": PREDICT,
    "/v2/models/<name>/versions/<version>/ready": PREDICT,
    "/v2/models/<name>/infer": PREDICT,
    "/v2/models/<name>/versions/<version>/infer": PREDICT,
    "/metrics": METRICS,
    "/model": ANY_KEY,
    "/card": ANY_KEY,
    "/openapi.json": ANY_KEY,
    "/feedback": KEPT,
    "/review/pictures": KEPT,
    "/review/pictures/<number>": KEPT,
}
"""By rule of the application's URL map: who is let in. A new route belongs in here, and in auth.py."""
HEADERS: dict[str, dict[str, str]] = {"none": {}, "wrong": {"Authorization": "Bearer wrong"}}
HEADERS |= {scope: {"Authorization": f"Bearer secret-{scope}"} for scope in SCOPES}
KEYS = tuple(ApiKey(scope, digest_of(f"secret-{scope}"), frozenset((scope,))) for scope in SCOPES)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    folder = tmp_path_factory.mktemp("access")
    predictor = Predictor.load(write_model(folder / "colours.onnx"))
    return create_app(predictor, Settings(api_keys=KEYS, feedback_dir=folder / "kept"))


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_every_route_has_a_decision(app: Flask) -> None:
    assert {rule.rule for rule in app.url_map.iter_rules()} == ALLOWED.keys()


@pytest.mark.parametrize("who", HEADERS)
def test_every_route_lets_in_whom_it_should_and_nobody_else(app: Flask, client: FlaskClient, who: str) -> None:
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<name>", "colours").replace("<version>", "1").replace("<int:number>", "1")
        for method in sorted(rule.methods or ()):
            status = client.open(path, method=method, headers=HEADERS[who], data=b"{}").status_code
            if who in ALLOWED[rule.rule]:
                assert status not in (401, 403), (method, path)
            else:
                assert status == (403 if who in SCOPES else 401), (method, path)


@pytest.mark.parametrize("path", ["//metrics", "/metrics/", "/METRICS", "/review//pictures", "/./review/pictures"])
def test_other_spellings_of_a_path_reach_nothing(client: FlaskClient, path: str) -> None:
    for who in ("none", "predict"):
        overrides = {"PATH_INFO": path}  # the client would take //metrics for the name of a server
        answer = client.get("/", environ_overrides=overrides, headers=HEADERS[who])
        assert answer.status_code in (401, 403, 404), (who, answer.status_code)
        assert b"pupila_" not in answer.data


def test_refusal_names_the_scope_that_is_needed(client: FlaskClient) -> None:
    answer = client.get("/metrics", headers=HEADERS["predict"])
    assert answer.get_json()["error"]["code"] == "scope_missing"
    assert "needs the scope metrics, and has predict" in answer.get_json()["error"]["message"]


def test_unknown_path_needs_a_key_like_all_that_is_not_open() -> None:
    assert route_of("/nothing").scopes == frozenset(SCOPES)


@pytest.mark.parametrize("path", ["/v2/models/a/b/c/infer", "/v2/models/a/versions/1/2/infer", "/predictions/a/b/c"])
def test_no_large_body_is_read_for_a_path_that_no_view_has(path: str) -> None:
    """A name with a slash is none: up to 64 MiB were read before the answer, that there is no such path."""
    assert route_of("/v2/models/a/infer").body == route_of("/v2/models/a/versions/1/infer").body == "large"
    assert route_of("/predictions/a").body == route_of("/predictions/a/1").body == "large"
    assert route_of(path).body == ""

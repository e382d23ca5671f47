"""Who may ask, and how often; and that nothing else leaks."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient
from server_kit import picture, write_model

from pupila.errors import SettingsError
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import Guard, Key, digest_of, new_key, parse_keys, read_keys

OLD, NEW = "old-secret", "new-secret"
KEYS = (Key("old", digest_of(OLD)), Key("new", digest_of(NEW), 2.0))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_model(tmp_path_factory.mktemp("model") / "colours.onnx"))


@pytest.fixture
def client(predictor: Predictor) -> FlaskClient:
    return create_app(predictor, Settings(api_keys=KEYS, cors_origins=("https://good.example",))).test_client()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("headers", [bearer(OLD), bearer(NEW), {"X-API-Key": OLD}, {"Authorization": f"bearer {OLD}"}])
def test_every_key_in_force_opens(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/predict", data=picture(), headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(""), {"Authorization": OLD}, {"X-API-Key": ""}])
def test_no_other_key_does(client: FlaskClient, headers: dict[str, str]) -> None:
    response = client.post("/predict", data=picture(), headers=headers)
    assert (response.status_code, response.get_json()["error"]["code"]) == (401, "key_missing")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"])
def test_health_is_never_behind_a_key(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/model", "/metrics", "/openapi.json", "/v2", "/v2/models/colours", "/nothing"])
def test_everything_else_is(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 401


def test_key_that_asks_too_often_is_told_when_to_come_back(client: FlaskClient) -> None:
    codes = [client.get("/model", headers=bearer(NEW)) for _ in range(12)]
    limited = [response for response in codes if response.status_code == 429]
    assert len(codes) - len(limited) <= 4
    assert limited and all(int(response.headers["Retry-After"]) >= 1 for response in limited)
    assert client.get("/model", headers=bearer(OLD)).status_code == 200


def test_rate_is_kept_over_time() -> None:
    guard = Guard([Key("a", digest_of("a"), 50.0)])
    waits = [guard.wait(0) for _ in range(60)]
    assert waits[:50] == [0.0] * 50
    assert 0 < waits[-1] < 1


def test_only_named_origins_may_read_from_a_browser(client: FlaskClient) -> None:
    question = {"Access-Control-Request-Method": "POST", "Origin": "https://good.example"}
    answer = client.options("/predict", headers=question)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://good.example"
    other = client.options("/predict", headers={**question, "Origin": "https://bad.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_without_settings_no_origin_is_named(predictor: Predictor) -> None:
    client = create_app(predictor).test_client()
    assert "Access-Control-Allow-Origin" not in client.get("/model", headers={"Origin": "https://a.example"}).headers


def test_every_answer_carries_security_headers_and_an_id(client: FlaskClient) -> None:
    for response in (client.get("/healthz"), client.get("/nothing"), client.post("/predict")):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Request-Id"]
    given = {"X-Request-Id": "abc-1"}
    assert client.get("/healthz", headers=given).headers["X-Request-Id"] == "abc-1"
    assert client.get("/healthz", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"] != "a b"


def test_keys_are_stored_as_hashes_and_read_from_a_file(tmp_path: Path) -> None:
    secret, key = new_key("first")
    path = tmp_path / "keys"
    path.write_text(f"# who may ask\n{key.name}:{key.digest}\nother:{digest_of('x')}:2.5  # slow\n")
    first, other = read_keys(path)
    assert (first, other.rate) == (key, 2.5)
    assert secret not in path.read_text()
    assert Guard([first]).find(f"Bearer {secret}", None) == 0


@pytest.mark.parametrize("line", ["plain-text-key", "name:short", "a b:" + "0" * 64])
def test_key_file_with_a_wrong_line_is_refused(line: str) -> None:
    with pytest.raises(SettingsError, match="NAME:SHA256"):
        parse_keys([line])


def test_missing_or_empty_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_keys(tmp_path / "none")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(SettingsError, match="no API key"):
        read_keys(tmp_path / "empty")

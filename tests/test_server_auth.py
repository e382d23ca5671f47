"""Who may ask, and how often; and that nothing else leaks."""

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from server_kit import picture, write_model
from werkzeug.test import TestResponse

from pupila.cli import main
from pupila.errors import SettingsError
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import (
    AccessControl,
    ApiKey,
    RateLimiter,
    digest_of,
    new_key,
    parse_keys,
    read_keys,
)

OLD, NEW = "old-secret", "new-secret"
ALL = frozenset(("admin",))
KEYS = (ApiKey("old", digest_of(OLD), ALL), ApiKey("new", digest_of(NEW), ALL, 2.0))


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
    limiter = RateLimiter(["a"])
    waits = [limiter.wait("a", 50.0) for _ in range(60)]
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
    assert AccessControl([first]).authenticate(f"Bearer {secret}", None) == first


@pytest.mark.parametrize("line", ["plain-text-key", "name:short", "a b:" + "0" * 64])
def test_key_file_with_a_wrong_line_is_refused(line: str) -> None:
    with pytest.raises(SettingsError, match="NAME:SHA256"):
        parse_keys([line])


HASH = "0" * 64


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "1e999", "fast", "", "rate=0", "pictures=-3", "pictures="])
def test_rate_that_is_none_is_refused_with_its_line(tmp_path: Path, rate: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\na:{'1' * 64}\nb:{HASH}:{rate}\n")
    with pytest.raises(SettingsError, match=r"keys, line 3: .* is not a rate"):
        read_keys(path)


@pytest.mark.parametrize("field", ["scope=all", "scope=", "scope=predict,", "size=3", "rate=1:rate=2"])
def test_field_that_is_unknown_or_there_twice_is_refused(field: str) -> None:
    with pytest.raises(SettingsError, match=r"line 2: .*(cannot be understood|there is no scope)"):
        parse_keys(["", f"a:{HASH}:{field}"])


def test_one_key_in_two_lines_is_refused() -> None:
    with pytest.raises(SettingsError, match="line 2: this key is there twice"):
        parse_keys([f"a:{HASH}:scope=predict", f"b:{HASH}:scope=admin"])


def test_line_without_a_scope_may_predict_and_send_feedback_and_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = parse_keys([f"a:{HASH}", f"b:{'1' * 64}:2.5", f"c:{'2' * 64}:scope=metrics"])
    assert [key.scopes for key in keys[:2]] == [{"predict", "feedback"}] * 2
    assert len(caplog.records) == 1
    assert "a, b." in caplog.text and "c" not in caplog.text.partition("more: ")[2].partition(".")[0]


def test_pictures_count_as_well_as_requests(predictor: Predictor) -> None:
    keys = (ApiKey("a", digest_of("a"), picture_rate=3.0),)
    client = create_app(predictor, Settings(api_keys=keys)).test_client()
    statuses = [post(client, "/predict", 4).status_code for _ in range(3)]
    assert statuses == [200, 429, 429]  # a second's worth may come at once, and what a request has beyond it is owed
    assert post(client, "/predictions/colours", 1).status_code == 429
    assert client.get("/model", headers=bearer("a")).status_code == 200


def post(client: FlaskClient, path: str, count: int) -> TestResponse:
    files = [(io.BytesIO(picture()), f"{number}.png") for number in range(count)]
    return client.post(path, data={"file": files}, headers=bearer("a"))


def test_command_makes_a_key_that_its_line_admits(tmp_path: Path) -> None:
    arguments = ["keys", "new", "shop", "--scope", "review,metrics", "--rate", "20", "--pictures", "7.5"]
    done = CliRunner().invoke(main, arguments)
    secret, line = (text.partition(":")[2].strip() for text in done.output.splitlines())
    (tmp_path / "keys").write_text(f"{line}\n")
    (key,) = read_keys(tmp_path / "keys")
    assert key == ApiKey("shop", digest_of(secret), frozenset(("review", "metrics")), 20.0, 7.5)
    listed = CliRunner().invoke(main, ["keys", "list", str(tmp_path / "keys")]).output
    assert listed == "shop  review,metrics  20 requests/s  7.5 pictures/s\n"


def test_command_adds_the_line_to_a_file_of_the_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for name in ("a", "b"):
        done = CliRunner().invoke(main, ["keys", "new", name, "--add", str(file)])
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_keys(file)[1] == ApiKey("b", digest_of(done.output.strip()))
    file.write_text(file.read_text().rstrip("\n"))  # as some editors leave it
    CliRunner().invoke(main, ["keys", "new", "c", "--add", str(file)])
    assert [key.name for key in read_keys(file)] == ["a", "b", "c"]
    refused = CliRunner().invoke(main, ["keys", "new", "a", "--add", str(tmp_path / "none" / "keys")])
    assert (refused.exit_code, "cannot be written" in refused.output) == (1, True)


@pytest.mark.parametrize("wrong", [["a b"], ["a", "--scope", "all"], ["a", "--rate", "0"], ["a", "--pictures", "x"]])
def test_command_refuses_what_no_server_would_read(wrong: list[str]) -> None:
    done = CliRunner().invoke(main, ["keys", "new", *wrong])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"HTTP_ORIGIN": "http://here:3000", "HTTP_HOST": "here:3000"}, False),
        ({"HTTP_ORIGIN": "https://here", "HTTP_HOST": "127.0.0.1", "HTTP_SEC_FETCH_SITE": "same-origin"}, False),
        ({"HTTP_SEC_FETCH_SITE": "none"}, False),
        ({"HTTP_ORIGIN": "https://good.example", "HTTP_SEC_FETCH_SITE": "cross-site"}, False),
        ({"HTTP_ORIGIN": "https://evil.example", "HTTP_SEC_FETCH_SITE": "cross-site"}, True),
        ({"HTTP_ORIGIN": "http://here:8000", "HTTP_HOST": "here:3000"}, True),
        ({"HTTP_ORIGIN": "null", "HTTP_HOST": "null"}, True),
        ({"HTTP_ORIGIN": "https://evil.example"}, True),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, True),
    ],
)
def test_page_of_another_site_is_told_by_what_its_browser_says(headers: dict[str, str], expected: bool) -> None:
    assert AccessControl((), ("https://good.example",)).is_cross_site(headers) is expected


def test_missing_or_empty_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_keys(tmp_path / "none")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(SettingsError, match="no API key"):
        read_keys(tmp_path / "empty")

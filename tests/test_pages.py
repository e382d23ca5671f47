"""The web page as HTTP answers: its files, how they may be cached, what the page may do, and the model's card."""

import gzip
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from server_kit import CLASSES, write_model

from pupila.models import bundled_model
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import new_key
from pupila.server.api.pages import FOLDER, TYPES

FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_model(tmp_path_factory.mktemp("model") / "colours.onnx"))


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> FlaskClient:
    return create_app(predictor, Settings(max_parts=8)).test_client()


def test_every_file_of_the_folder_is_served_with_its_type(client: FlaskClient) -> None:
    assert "index.html" in FILES
    for name in FILES:
        answer = client.get(f"/page/{name}")
        assert answer.content_type == TYPES[Path(name).suffix]
        assert answer.data == (FOLDER / name).read_bytes()


def test_the_page_may_load_and_ask_this_server_only(client: FlaskClient) -> None:
    policy = client.get("/").headers["Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert "unsafe" not in policy
    assert directives.pop("require-trusted-types-for") == "'script'"
    allowed = {source for sources in directives.values() for source in sources.split()}
    assert allowed == {"'none'", "'self'", "blob:"}
    assert (directives["default-src"], directives["script-src"]) == ("'none'", "'self'")


def test_a_file_is_sent_packed_to_those_who_take_it(client: FlaskClient) -> None:
    packed = client.get("/page/main.js", headers={"Accept-Encoding": "gzip, br"})
    plain = client.get("/page/main.js", headers={"Accept-Encoding": "br, gzip;q=0"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["ETag"] != plain.headers["ETag"]
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"


def test_a_file_that_has_not_changed_is_not_sent_again(client: FlaskClient) -> None:
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    other = client.get("/", headers={"If-None-Match": '"another"'})
    assert first.headers["Cache-Control"] == "no-cache"
    assert (again.status_code, again.data) == (304, b"")
    assert other.data == first.data


@pytest.mark.parametrize("name", ["../pages.py", "..%2fpages.py", "nothing.js", ".", "index.html/"])
def test_nothing_but_the_pages_files_can_be_asked_for(client: FlaskClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_is_open_but_the_card_is_not_where_keys_are_needed(predictor: Predictor) -> None:
    secret, key = new_key("someone")
    client = create_app(predictor, Settings(api_keys=(key,))).test_client()
    assert [client.get(path).status_code for path in ("/", "/page/main.js", "/card")] == [200, 200, 401]
    assert client.get("/card", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_the_card_says_what_the_manifest_says_and_makes_nothing_up(client: FlaskClient) -> None:
    card = client.get("/card").get_json()
    assert (card["name"], card["classes"], card["accuracy"]) == ("colours", list(CLASSES), 1.0)
    assert [card[name] for name in ("interval", "pictures", "split", "calibration_error")] == [None] * 4
    assert (card["knows_unknown"], card["feedback"], card["limits"]["max_parts"]) == (False, False, 8)


def test_the_bundled_models_card_has_accuracy_with_its_interval_and_data() -> None:
    if not bundled_model().exists():
        pytest.skip("the bundled model is not in the repository yet")
    card = create_app(Predictor.load(bundled_model())).test_client().get("/card").get_json()
    low, high = card["interval"]
    assert 0.5 < low < card["accuracy"] < high < 1
    assert card["pictures"] >= 1000
    assert card["split"]
    assert card["data"]["source"]
    assert card["knows_unknown"] is True

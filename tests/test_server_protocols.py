"""What other people's clients send is understood: Open Inference Protocol, TorchServe, OpenAPI."""

import base64
import dataclasses
import io
import json
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from server_kit import CLASSES, COLOURS, picture, serving, write_model

from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api import other_protocols
from pupila.server.api.auth import new_key
from pupila.server.api.errors import RequestError
from pupila.server.api.other_protocols import outputs_wanted

INFER = "/v2/models/colours/infer"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    path = write_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    return create_app(Predictor.load(path), Settings(max_parts=8)).test_client()


def pixels(*colours: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([np.full((32, 32, 3), COLOURS[colour], np.uint8) for colour in colours])


def binary_request(name: str, kind: str, shape: list[int], data: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    """Write a request as tritonclient[http] does: JSON, then the tensor's bytes."""
    tensor = {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def test_pixels_as_json_are_answered(client: FlaskClient) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": pixels("red", "blue").tolist()}
    answer = client.post(INFER, json={"id": "7", "inputs": [tensor]}).get_json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["model_name"], answer["id"]) == ("colours", "7")
    assert outputs["category"]["data"] == ["red", "blue"]
    assert outputs["category_index"]["data"] == [0, 2]
    assert outputs["logits"]["shape"] == [2, 4]
    assert sum(outputs["probabilities"]["data"]) == pytest.approx(2, abs=1e-5)


def test_binary_tensors_go_both_ways(client: FlaskClient) -> None:
    asked = [{"name": name, "parameters": {"binary_data": True}} for name in ("logits", "category")]
    body, headers = binary_request("images", "UINT8", [3, 32, 32, 3], pixels(*CLASSES[:3]).tobytes(), outputs=asked)
    response = client.post(INFER, data=body, headers=headers)
    length = int(response.headers["Inference-Header-Content-Length"])
    head, tail = json.loads(response.data[:length]), response.data[length:]
    assert [output["name"] for output in head["outputs"]] == ["logits", "category"]
    size = head["outputs"][0]["parameters"]["binary_data_size"]
    logits = np.frombuffer(tail[:size], "<f4").reshape(3, 4)
    assert list(logits.argmax(1)) == [0, 1, 2]
    assert tail[size : size + 7] == struct.pack("<I", 3) + b"red"


def test_encoded_pictures_are_answered_in_both_forms(client: FlaskClient) -> None:
    files = [picture("green", "JPEG", (90, 60)), picture("blue")]
    packed = b"".join(struct.pack("<I", len(data)) + data for data in files)
    body, headers = binary_request("files", "BYTES", [2], packed, outputs=[{"name": "category"}])
    assert client.post(INFER, data=body, headers=headers).get_json()["outputs"][0]["data"] == ["green", "blue"]
    encoded = [base64.b64encode(data).decode() for data in files]
    tensor = {"name": "files", "datatype": "BYTES", "shape": [2], "data": encoded}
    answer = client.post(INFER, json={"inputs": [tensor], "outputs": [{"name": "category"}]}).get_json()
    assert answer["outputs"][0]["data"] == ["green", "blue"]


GOOD = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"inputs": []},
        {"inputs": [GOOD, GOOD]},
        {"inputs": [{**GOOD, "name": "pixels"}]},
        {"inputs": [{**GOOD, "datatype": "FP32"}]},
        {"inputs": [{**GOOD, "shape": [1, 32, 32]}]},
        {"inputs": [{**GOOD, "shape": [1, 16, 64, 3]}]},
        {"inputs": [{**GOOD, "shape": [-1, 32, 32, 3]}]},
        {"inputs": [{**GOOD, "shape": [10**12]}]},
        {"inputs": [{**GOOD, "shape": [1, *[4096] * 1300]}]},  # their product has thousands of digits
        {"inputs": [{**GOOD, "shape": [1e3, 32, 32, 3]}]},
        {"inputs": [{**GOOD, "data": [0] * 3071}]},
        {"inputs": [{**GOOD, "data": [256] * 3072}]},
        {"inputs": [{**GOOD, "data": "zeros"}]},
        {"inputs": [{**GOOD, "data": [[0], [0, 1]]}]},
        {"inputs": [{"name": "files", "datatype": "BYTES", "shape": [2], "data": ["!!", "AAAA"]}]},
        {"inputs": [GOOD], "outputs": [{"name": "labels"}]},
        {"inputs": [GOOD], "outputs": ["logits"]},
        {"inputs": [GOOD], "outputs": 3},
    ],
)
def test_inference_requests_that_make_no_sense_are_refused(client: FlaskClient, document: Any) -> None:
    response = client.post(INFER, json=document)
    assert response.status_code == 400
    assert isinstance(response.get_json()["error"], str)


@pytest.mark.parametrize("name", [["logits"], {}, None, 7])
def test_output_whose_name_is_no_text_is_refused(client: FlaskClient, name: object) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": pixels("red").tolist()}
    response = client.post(INFER, json={"inputs": [tensor], "outputs": [{"name": name}]})
    assert (response.status_code, "there is no output" in response.text) == (400, True)


def test_output_whose_name_is_a_long_list_is_refused_without_writing_it_out() -> None:
    """Python writes out a million numbers in one go, in which no other thread of the worker runs."""
    numbers = [1.2345678901234567e-300] * 1_000_000
    begun = time.thread_time()
    with pytest.raises(RequestError, match="there is no output 'a list of numbers"):
        outputs_wanted({"outputs": [{"name": numbers}]})
    assert time.thread_time() - begun < 0.1


def test_half_a_surrogate_pair_in_the_id_is_answered(client: FlaskClient) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": pixels("red").tolist()}
    response = client.post(INFER, json={"inputs": [tensor], "id": "a\ud800"})
    assert (response.status_code, response.get_json()["id"]) == (200, "a?")


@pytest.mark.parametrize("value", [0.5, -1, 256, 1e308, 10**40, None, "x", [1], {}, float("nan"), float("inf")])
def test_data_that_is_no_list_of_bytes_is_refused(client: FlaskClient, value: object) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3071 + [value]}
    response = client.post(INFER, data=json.dumps({"inputs": [tensor]}))
    assert (response.status_code, "data is not" in response.text) == (400, True)


def test_numbers_of_all_outputs_are_listed_up_to_a_limit_together(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits and probabilities together listed twice as many as are allowed."""
    monkeypatch.setattr(other_protocols, "MAX_LISTED", 4)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": pixels("red").tolist()}
    for outputs, status in (("logits",), 200), (("logits", "category"), 200), (("logits", "probabilities"), 400):
        asked = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}
        assert client.post(INFER, json=asked).status_code == status
    asked["parameters"] = {"binary_data_output": True}
    assert client.post(INFER, json=asked).status_code == 200


def test_lying_lengths_of_binary_tensors_are_refused(client: FlaskClient) -> None:
    body, headers = binary_request("images", "UINT8", [1, 32, 32, 3], bytes(3071))
    assert client.post(INFER, data=body, headers=headers).status_code == 400
    body, headers = binary_request("files", "BYTES", [1], struct.pack("<I", 2**31) + b"x")
    assert client.post(INFER, data=body, headers=headers).status_code == 400
    assert client.post(INFER, data=body, headers={"Inference-Header-Content-Length": "5"}).status_code == 400


def test_too_many_pictures_and_bad_ones_are_named(client: FlaskClient) -> None:
    tensor = {"name": "files", "datatype": "BYTES", "shape": [9], "data": ["AAAA"] * 9}
    assert client.post(INFER, json={"inputs": [tensor]}).status_code == 413
    tensor = {
        "name": "files",
        "datatype": "BYTES",
        "shape": [2],
        "data": [base64.b64encode(picture()).decode(), "AAAA"],
    }
    response = client.post(INFER, json={"inputs": [tensor]})
    assert (response.status_code, "part 1" in response.get_json()["error"]) == (415, True)


def test_metadata_and_health_follow_the_protocol(client: FlaskClient) -> None:
    assert client.get("/v2/health/live").get_json() == {"live": True}
    assert client.get("/v2/health/ready").get_json() == {"ready": True}
    model = client.get("/v2/models/colours").get_json()
    assert model["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
    assert client.get(f"/v2/models/colours/versions/{model['versions'][0]}/ready").get_json()["ready"]
    assert client.get("/v2/models/other").status_code == 404
    assert client.get("/v2/models/colours/versions/1").status_code == 404


def test_torchserve_calls_are_answered(client: FlaskClient) -> None:
    assert client.get("/ping").get_json() == {"status": "Healthy"}
    answer = client.post("/predictions/colours", data=picture("blue")).get_json()
    assert next(iter(answer)) == "blue" and len(answer) == 4
    form = {"data": (io.BytesIO(b"no picture"), "test.py")}
    assert client.post("/predictions/colours", data=form).status_code == 415
    assert client.post("/predictions/other", data=picture()).status_code == 404


def test_unmodified_triton_client_infers(tmp_path: Path) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log") as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("colours")
        data = pixels("red", "white")
        tensor = triton.InferInput("images", list(data.shape), "UINT8")
        tensor.set_data_from_numpy(data)
        wanted = [triton.InferRequestedOutput("logits"), triton.InferRequestedOutput("category", binary_data=False)]
        answer = client.infer("colours", [tensor], outputs=wanted)
        assert list(answer.as_numpy("category")) == ["red", "white"]
        assert answer.as_numpy("logits").argmax(1).tolist() == [0, 3]
        files = triton.InferInput("files", [1], "BYTES")
        files.set_data_from_numpy(np.array([picture("green")], dtype=object))
        assert client.infer("colours", [files]).as_numpy("category").tolist() == [b"green"]
        client.close()


def test_openapi_describes_every_route(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    assert document["openapi"] == "3.1.0"
    described = {path.replace("colours", "<name>").replace("{number}", "<number>") for path in document["paths"]}
    app = client.application
    for_people = {"/", "/docs", "/page/<name>", "/review"}
    routes = {rule.rule for rule in app.url_map.iter_rules() if "<version>" not in rule.rule} - for_people
    assert described == routes


@pytest.mark.slow
def test_requests_made_up_from_openapi_find_no_fault(tmp_path: Path) -> None:
    """All of schemathesis's checks but one: it believes that every string is a picture, which must not be refused."""
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log") as server:
        command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json"]
        command += ["--max-examples", "20", "--seed", "1", "--exclude-checks", "positive_data_acceptance"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=80, cwd=tmp_path, check=False)
        assert result.returncode == 0, result.stdout[-3000:]
        assert "Traceback" not in server.log.read_text()


def test_openapi_is_valid(client: FlaskClient) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(client.get("/openapi.json").get_json())


def test_unknown_models_and_versions_are_named_with_what_is_there(client: FlaskClient) -> None:
    version = client.get("/model").get_json()["version"]
    here = f"here, but 'colours', version {version!r}."
    assert client.get("/v2/models/other").get_json()["error"] == f"There is no model 'other' {here}"
    answer = client.get("/v2/models/colours/versions/1").get_json()
    assert answer["error"] == f"There is no model 'colours', version '1', {here}"


@pytest.mark.parametrize("nested", [True, False])
def test_json_numbers_of_32_pictures_of_64_pixels_are_read(client: FlaskClient, nested: bool) -> None:
    numbers = np.full((8, 128, 128, 3) if nested else 32 * 64 * 64 * 3, 200, np.uint8).tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [8, 128, 128, 3], "data": numbers}
    response = client.post(INFER, json={"inputs": [tensor]})
    assert (response.status_code, "'images' has the shape [8, 128, 128, 3], not" in response.text) == (400, True)


def test_json_of_a_million_values_is_refused_in_favour_of_a_binary_tensor(client: FlaskClient) -> None:
    body = b'{"inputs": [{"data": [' + b"[]," * 1_000_001 + b"[]]}]}"
    response = client.post(INFER, data=body)
    assert (response.status_code, "binary tensor" in response.text) == (413, True)


@pytest.mark.parametrize("path", [INFER, "/predictions/colours"])
def test_big_picture_counts_once_against_a_keys_rate(tmp_path: Path, path: str) -> None:
    secret, key = new_key("ann")
    settings = Settings(api_keys=(dataclasses.replace(key, rate=0.05),))
    client = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")), settings).test_client()
    big = picture("red", size=(1_000, 1_000))
    body, headers = binary_request("files", "BYTES", [1], struct.pack("<I", len(big)) + big)
    sent = body if path == INFER else big
    codes = []
    for _ in range(2):
        codes.append(client.post(path, data=sent, headers={**headers, "X-API-Key": secret}).status_code)
    assert codes == [200, 429]

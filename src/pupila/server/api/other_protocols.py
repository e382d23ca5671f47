"""Two other inference protocols: KServe v2 (Triton), with its binary tensors, and the two calls of TorchServe.

KServe's inputs are `images`, pixels as the graph takes them, and `files`, encoded pictures of any size. TorchServe's
clients call /ping and /predictions/NAME.
"""

import itertools
import struct
from typing import Any

import numpy as np
from flask import Blueprint, Response, request
from numpy.typing import NDArray

from pupila._arguments import whole_number
from pupila.predictor import Predictor
from pupila.server.api import body as bodies
from pupila.server.api import multipart
from pupila.server.api.errors import RequestError, let_go
from pupila.server.api.predict import MAX_LISTED, NOT_YET
from pupila.server.api.request_context import (
    RequestContext,
    app_state,
    begin_inference,
    context_of,
    end_parsing,
    json_response,
    to_bytes,
)
from pupila.server.inference import Decoding, interpret

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Bytes of JSON before the binary tensors, in requests and answers alike."""
MAX_JSON_VALUES = 1_000_000
"""Numbers of 80 pictures of 64 x 64: they take 100 MB as JSON, and a megabyte as a binary tensor."""
MAX_ID = 1_000
"""Letters of a request's own id: an answer that nobody reads keeps them in memory."""
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "category_index": "INT64", "category": "BYTES"}

Tensor = NDArray[Any] | list[bytes]

oip = Blueprint("oip", __name__, url_prefix="/v2")


@oip.get("")
def server() -> Response:
    """Name the server."""
    from pupila import __version__

    return json_response({"name": "pupila", "version": __version__, "extensions": ["binary_tensor_data"]})


@oip.get("/health/live")
def live() -> Response:
    """Say that this process answers."""
    return json_response({"live": True})


@oip.get("/health/ready")
def ready() -> Response:
    """Say whether a worker can answer."""
    is_ready = app_state().health.status() == "ready"
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


@oip.get("/models/<name>")
@oip.get("/models/<name>/versions/<version>")
def metadata(name: str, version: str = "") -> Response:
    """Describe the model's tensors."""
    predictor = asked_for(name, version)
    size, count = predictor.manifest.input_size, len(predictor.manifest.classes)
    inputs = [
        {"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]},
        {"name": "files", "datatype": "BYTES", "shape": [-1]},
    ]
    shapes = {"logits": [-1, count], "probabilities": [-1, count], "category_index": [-1], "category": [-1]}
    outputs = [{"name": n, "datatype": kind, "shape": shapes[n]} for n, kind in OUTPUTS.items()]
    document = {"name": name, "versions": [predictor.version], "platform": "onnxruntime_onnx"}
    return json_response({**document, "inputs": inputs, "outputs": outputs})


@oip.get("/models/<name>/ready")
@oip.get("/models/<name>/versions/<version>/ready")
def model_ready(name: str, version: str = "") -> Response:
    """Say whether this model can answer."""
    asked_for(name, version)
    return json_response({"name": name, "ready": app_state().health.status() == "ready"})


@oip.post("/models/<name>/infer")
@oip.post("/models/<name>/versions/<version>/infer")
def infer(name: str, version: str = "") -> Response:
    """Compute the outputs that are asked for."""
    context = context_of(request.environ)
    decoding = context.decoding or read_inference(asked_for(name, version))
    predictor, (asked, wanted) = decoding.predictor, decoding.also
    if not computed(decoding):
        return Response(status=NOT_YET)
    context.record_answers(predictor, interpret(predictor, decoding.rows, 1))
    tensors = compute_outputs(predictor, np.stack([row.scores[:-1] for row in decoding.rows]))
    head = {"model_name": name, "model_version": predictor.version, "id": asked}
    response = encode(head, {n: tensors[n] for n in wanted}, wanted)
    response.headers["Pupila-Model"] = predictor.version
    return response


def read_inference(predictor: Predictor) -> Decoding:
    """Return the pictures of an inference request, with its id and the outputs to give; raises RequestError."""
    state = app_state()
    with begin_inference(request.environ, state) as (context, body):
        also, tensor = read_body(body, state.settings.max_parts)
    count, classes = len(tensor[1]), len(predictor.manifest.classes)
    listed = sum(OUTPUTS[name] == "FP32" and not is_binary for name, is_binary in also[1].items())
    if listed * count * classes > MAX_LISTED:
        numbers = f"{count} x {classes:,} numbers of {listed} outputs"
        raise bad(f"{numbers} are over {MAX_LISTED:,}: ask for binary_data, or for fewer")
    end_parsing(context, state, count)
    return decoding_of(tensor, predictor, context, also)


def asked_for(name: str, version: str) -> Predictor:
    """Return the predictor if it is the one that a path names; raises RequestError."""
    predictor = app_state().classifier.predictor
    if name != predictor.manifest.name or version not in ("", predictor.version):
        asked = f"{name[:80]!r}, version {version[:20]!r}," if version else repr(name[:80])
        here = f"{predictor.manifest.name!r}, version {predictor.version!r}"
        raise RequestError(404, "model_not_found", f"There is no model {asked} here, but {here}.")
    return predictor


def read_body(body: bytes, limit: int) -> tuple[tuple[str, dict[str, bool]], tuple[str, Tensor]]:
    """Return the id and the wanted outputs of a request, and its input's name and content; raises RequestError."""
    stated = whole_number(request.headers.get(HEADER_LENGTH, ""))
    length = len(body) if stated is None else stated
    try:
        with bodies.parsed(body[:length], MAX_JSON_VALUES, "Send the pictures as a binary tensor.") as document:
            if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
                raise bad("the request has no list 'inputs'")
            return (id_of(document), outputs_wanted(document)), input_tensor(document, memoryview(body)[length:], limit)
    except (ValueError, RecursionError) as error:
        raise bad("the request's JSON cannot be read") from error


def id_of(document: dict[str, Any]) -> str:
    """Return the request's own id, which the answer repeats; raises RequestError if it is none."""
    given = document.get("id")
    given = "" if given is None else given
    if not isinstance(given, str | int) or len(str(given)) > MAX_ID:
        raise bad(f"its id is no text of up to {MAX_ID} letters")
    return str(given)


def input_tensor(document: dict[str, Any], binary: memoryview, limit: int) -> tuple[str, Tensor]:
    """Return the name and content of the one input; raises RequestError."""
    if len(document["inputs"]) != 1 or not isinstance(document["inputs"][0], dict):
        raise bad("give one input: 'images' (UINT8) or 'files' (BYTES)")
    entry = document["inputs"][0]
    name, kind, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if (name, kind) not in (("images", "UINT8"), ("files", "BYTES")):
        name, kind = (value if isinstance(value, str) else bodies.kind_of(value) for value in (name, kind))
        raise bad(f"input {name[:40]!r} of type {kind[:20]} is none of 'images' (UINT8), 'files' (BYTES)")
    if not (isinstance(shape, list) and 0 < len(shape) <= 4 and all(type(n) is int and 0 < n <= 4096 for n in shape)):
        raise bad("the input's shape is not a list of one to four whole numbers from 1 to 4096")
    if shape[0] > limit:
        raise RequestError(413, "too_many_parts", f"{shape[0]} pictures are over the limit of {limit}.")
    if name == "files":
        return "files", files_of(entry, binary, shape[0])
    return "images", numbers_of(entry, binary, shape)


def numbers_of(entry: dict[str, Any], binary: memoryview, shape: list[int]) -> NDArray[np.uint8]:
    """Return a tensor of bytes from its binary or its JSON form."""
    expected = int(np.prod(shape, dtype=object))
    if "data" not in entry:
        if len(binary) != expected:
            raise bad(f"{expected:,} bytes were announced by the shape, and {len(binary):,} came")
        return np.frombuffer(binary, np.uint8).reshape(shape).copy()  # or a view would keep the whole body
    values = np.array(flat(entry["data"]), dtype=np.float64)
    if values.size != expected or not ((values >= 0) & (values <= 255)).all() or (values % 1).any():
        raise bad(f"the input's data is not {expected:,} whole numbers from 0 to 255")
    return values.astype(np.uint8).reshape(shape)


def flat(data: Any) -> list[float]:
    """Return the numbers of a list, or of lists of as many lists each; raises RequestError for anything else.

    NumPy would take texts for numbers, and write out those that are none, in one call of 0.4 s for 32 MiB.
    """
    level, kinds = [data], {type(data)}
    while kinds == {list} and len(set(map(len, level))) == 1:
        level = list(itertools.chain.from_iterable(level))
        kinds = set(map(type, level))
    if type(data) is not list or not kinds <= {int, float, bool}:
        raise bad("the input's data is not a list of numbers")
    return level


def files_of(entry: dict[str, Any], binary: memoryview, count: int) -> list[bytes]:
    """Return the encoded pictures: base64 in JSON, or each after its length of four bytes, little-endian."""
    found: list[bytes] = []
    if "data" in entry:
        given = entry["data"] if isinstance(entry["data"], list) else []
        try:
            found = [bodies.from_base64(text) for text in given] if len(given) == count else given
        except bodies.Base64Error as error:
            raise bad(f"of the input's data: {str(error).rstrip('.')}") from error
    else:
        at = 0
        while at + 4 <= len(binary) and len(found) < count:
            (length,) = struct.unpack_from("<I", binary, at)
            if at + 4 + length > len(binary):
                break
            found.append(bytes(binary[at + 4 : at + 4 + length]))
            at += 4 + length
    if len(found) != count:
        raise bad(f"{count} files were announced by the shape, and {len(found)} could be read")
    return found


def decoding_of(tensor: tuple[str, Tensor], predictor: Predictor, context: RequestContext, also: Any) -> Decoding:
    """Return pictures on their way to what the graph takes; raises RequestError for pixels of another shape."""
    name, content = tensor
    size = predictor.manifest.input_size
    if name == "files":
        parts = [multipart.Part("", data) for data in content]
        return Decoding(app_state().classifier, parts, context, predictor, also)
    pixels = np.asarray(content)
    if pixels.shape[1:] != (size, size, 3):
        raise bad(f"'images' has the shape {list(pixels.shape)}, not [N, {size}, {size}, 3]")
    decoding = Decoding(app_state().classifier, [], context, predictor, also)
    decoding.found = list(pixels)
    return decoding


def computed(decoding: Decoding) -> bool:
    """Decode and compute, and return whether that was all; raises RequestError for what could not be decoded."""
    if not decoding.decode():
        return False
    decoding.reject_bad()
    return decoding.compute()


def compute_outputs(predictor: Predictor, logits: NDArray[np.float32]) -> dict[str, Tensor]:
    """Return every output."""
    probabilities = predictor.probabilities(logits)
    best = probabilities.argmax(axis=1)
    names = [predictor.manifest.classes[index].encode() for index in best]
    return {"logits": logits, "probabilities": probabilities, "category_index": best, "category": names}


def outputs_wanted(document: dict[str, Any]) -> dict[str, bool]:
    """Return the outputs to give, each with whether it is to be binary; raises RequestError."""
    parameters = document.get("parameters")
    default = bool(parameters.get("binary_data_output")) if isinstance(parameters, dict) else False
    asked = document.get("outputs") or [{"name": name} for name in OUTPUTS]
    wanted: dict[str, bool] = {}
    for given in asked if isinstance(asked, list) else [None]:
        entry = given if isinstance(given, dict) else {}
        name = entry.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            said = name if isinstance(name, str) else bodies.kind_of(name)  # which may be long if it is written out
            raise bad(f"there is no output {said[:40]!r}; there are {', '.join(OUTPUTS)}")
        own = entry.get("parameters")
        wanted[name] = bool(own.get("binary_data", default)) if isinstance(own, dict) else default
    return wanted


def encode(head: dict[str, Any], tensors: dict[str, Tensor], binary: dict[str, bool]) -> Response:
    """Return the answer: JSON, followed by the tensors that are to be binary."""
    outputs, tail = [], b""
    for name, tensor in tensors.items():
        shape = [len(tensor)] if isinstance(tensor, list) else list(tensor.shape)
        entry: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": shape}
        if binary[name]:
            raw = packed(tensor)
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            entry["data"] = [b.decode() for b in tensor] if isinstance(tensor, list) else tensor.ravel().tolist()
        outputs.append(entry)
    text = to_bytes({**head, "outputs": outputs})
    if not tail:
        return Response(text, mimetype="application/json")
    response = Response(text + tail, mimetype="application/octet-stream")
    response.headers[HEADER_LENGTH] = str(len(text))
    return response


def packed(tensor: Tensor) -> bytes:
    """Return a tensor's binary form: little-endian numbers, or each string after its length of four bytes."""
    if isinstance(tensor, list):
        return b"".join(struct.pack("<I", len(text)) + text for text in tensor)
    return tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()


def bad(reason: str) -> RequestError:
    """Say why a request cannot be used."""
    return RequestError(400, "inference_request_invalid", f"The inference request cannot be used: {reason}.")


@oip.errorhandler(RequestError)
def show(error: RequestError) -> Response:
    """This protocol's errors are one string."""
    let_go(error)
    response = json_response({"error": str(error)}, error.status)
    response.headers.extend(error.headers())
    return response


TOP = 5
"""Classes that TorchServe's image classifier lists."""

torchserve = Blueprint("torchserve", __name__)


@torchserve.get("/ping")
def ping() -> Response:
    """Say whether the server is healthy, in TorchServe's words."""
    healthy = app_state().health.status() == "ready"
    return json_response({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 503)


@torchserve.route("/predictions/<name>", methods=["POST", "PUT"])
@torchserve.route("/predictions/<name>/<version>", methods=["POST", "PUT"])
def predictions(name: str, version: str = "") -> Response:
    """Answer {class: probability} for one picture, as a raw body or the part 'data'; a list for several parts."""
    context = context_of(request.environ)
    decoding = context.decoding or read_pictures(asked_for(name, version))
    if not computed(decoding):
        return Response(status=NOT_YET)
    found = interpret(decoding.predictor, decoding.rows, TOP)
    context.record_answers(decoding.predictor, found)
    documents = [{choice.category: choice.confidence for choice in answer.top} for answer in found]
    response = json_response(documents[0] if len(documents) == 1 else documents)
    response.headers["Pupila-Model"] = decoding.predictor.version
    return response


def read_pictures(predictor: Predictor) -> Decoding:
    """Return the pictures of a request; raises RequestError."""
    state, kind = app_state(), request.environ.get("CONTENT_TYPE", "")
    with begin_inference(request.environ, state) as (context, body):
        if kind.startswith("multipart/"):
            parts = multipart.read_form(kind, body, state.settings, ("data", "file")).parts
        else:
            own = kind if multipart.is_json(multipart.kind_of(kind)) else "image/*"  # curl -T sends any type
            parts = multipart.read_upload(own, body, state.settings).parts
    end_parsing(context, state, len(parts))
    return Decoding(state.classifier, parts, context, predictor)

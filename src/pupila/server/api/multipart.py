"""Parses a request's parameters and pictures: query string, multipart form, JSON or raw body, all within limits.

Python's email parser and Werkzeug's form parser copy every part several times and spool to disk; here a part is found
with `bytes.find` and copied once.
"""

import contextlib
import itertools
import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from pupila._arguments import MOST_UNKNOWN, did_you_mean, nearest, whole_number
from pupila.server.api import body as bodies
from pupila.server.api.errors import BadPart, RequestError
from pupila.server.settings import Settings

ALLOWED: Mapping[str, str] = {
    "top": "a whole number from 1",
    "on_error": "'partial' or 'fail'",
    "explain": "0 or 1",
}
NO_FIELDS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Query:
    """How /predict is to answer."""

    top: int | None = None
    """Number of classes to list; None lists none but the best."""
    explain: bool = False
    partial: bool = False
    """Answer the good pictures even if others are bad."""

    @classmethod
    def parse(cls, text: str, fields: Mapping[str, str] = NO_FIELDS) -> "Query":
        """Read a query string, and what the body gives beside it; raises RequestError for an unknown name or value."""
        if not text and not fields:
            return DEFAULT
        given = {**fields, **parse_query(text, ALLOWED)}
        top = whole_number(given.get("top", "1"), 5)
        explain, on_error = given.get("explain", "0"), given.get("on_error", "fail")
        right = {"top": bool(top), "explain": explain in ("0", "1"), "on_error": on_error in ("fail", "partial")}
        for name in [name for name, is_right in right.items() if not is_right]:
            message = f"{name}={given[name][:40]!r} cannot be used. Give {ALLOWED[name]}."
            raise RequestError(400, "query_invalid", message)
        return cls(top if "top" in given else None, explain == "1", on_error == "partial")


DEFAULT = Query()


def parse_query(text: str, allowed: Iterable[str]) -> dict[str, str]:
    """Return the parameters of a query string; raises RequestError for one that is not allowed."""
    given = dict(parse_qsl(text, keep_blank_values=True)) if text.count("&") < 20 else {"&": ""}
    for name in given.keys() - set(allowed):
        hint = did_you_mean(name, allowed, f"Use {', '.join(map(repr, allowed))}.", cutoff=0.5)
        raise RequestError(400, "query_invalid", f"Unknown query parameter {name[:40]!r}. {hint}")
    return given


PART_NAME = "file"
MAX_PART_HEADER = 8192
MAX_PARAMETERS = 20
"""Of a header: each takes half a microsecond, and those of a part have three that are read."""
MAX_NO_DELIMITERS = 1_000
"""Lines of all parts' data that begin with the boundary and go on: each takes a microsecond or two."""
MAX_FILENAME = 255
MAX_NOT_CHOSEN = 100
"""Inputs of a form in which no file was chosen that do not count as pictures."""
MAX_DATA_URLS = 8 * 2**20
"""Bytes of all data: URLs of a form together, which are decoded at a stretch, in some 0.1 s."""
MAX_JSON_VALUES = 10_000
HOW_TO = "Send pictures as multipart parts named 'file', as a raw image/* body, or as JSON {\"images\": [base64, ...]}."

PARAMETER = re.compile(r';\s*([\w*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
DISPOSITION = re.compile(r"(?im)^content-disposition:[ \t]*form-data(;.*?)\r?$")
PIECE = 2**20
"""Bytes that are searched at a time."""
BEFORE_JSON = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"
"""What json.loads() reads over in any encoding: byte order marks, and the four signs that are blank in JSON."""
JSON_TYPES = frozenset(("application/json", "text/json", "application/x-json"))
RAW_TYPES = frozenset(("", "application/binary", "application/x-binary", "*/*"))
"""Types of a body that is one picture, besides image/... and .../octet-stream."""
FIELDS = frozenset(ALLOWED)
"""Parts and keys that are parameters, as in the query string."""
MAX_FIELD = 100


@dataclass(frozen=True)
class Part:
    """One picture as it was sent."""

    filename: str
    data: bytes


class Upload(NamedTuple):
    """What the body of a request holds."""

    parts: list[Part]
    """Its pictures, in order."""
    fields: dict[str, str]
    """Parameters given in the body instead of the query string."""


def read_upload(content_type: str, body: bytes, settings: Settings) -> Upload:
    """Return the request's pictures, at least one, and its parameters; raises RequestError."""
    kind = kind_of(content_type)
    if kind == "multipart/form-data":
        upload = read_form(content_type, body, settings)
    elif is_form(body):
        fix = "Set no Content-Type: what writes the form also writes this header, with the boundary."
        message = f"The body is a multipart form, but its Content-Type is {kind[:80]!r}. {fix}"
        raise RequestError(415, "content_type_unsupported", message)
    elif is_json(kind):
        upload = read_json(body, settings)
    elif not is_readable(content_type) or begins_as_json(body):
        raise type_unsupported(kind, body)
    else:
        upload = Upload([Part("", body)] if body else [], {})
    if not upload.parts:
        raise RequestError(400, "no_picture", f"The request has no picture. {HOW_TO}")
    return upload


def kind_of(content_type: str) -> str:
    """Return the media type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Return whether a body of this type is JSON."""
    return kind in JSON_TYPES or kind.endswith("+json")


def begins_as_json(body: bytes) -> bool:
    """Return whether a body begins as an object, a list or a text does, and as no picture does."""
    pieces = (body[at : at + PIECE].lstrip(BEFORE_JSON) for at in range(0, len(body), PIECE))
    return next(filter(None, pieces), b"")[:1] in (b"{", b"[", b'"')


def is_form(body: bytes) -> bool:
    """Return whether a body begins as a multipart form does, and as nothing else."""
    return body.startswith(b"--") and b"form-data" in body[:MAX_PART_HEADER]


def is_readable(content_type: str) -> bool:
    """Return whether a body of this type may hold pictures."""
    kind = kind_of(content_type)
    is_raw = kind.startswith("image/") or kind.endswith("octet-stream") or kind in RAW_TYPES
    return is_raw or is_json(kind) or kind == "multipart/form-data"


def type_unsupported(kind: str, body: bytes) -> RequestError:
    """Say why a body of this type is not read, with the header that is likely missing."""
    if begins_as_json(body):
        named = f"is {kind[:80]!r}" if kind else "is missing"
        message = (
            f"The body begins as JSON does, but its Content-Type {named}. Add -H 'Content-Type: application/json'."
        )
    else:
        message = (
            f"A body of type {kind[:80]!r} is not read here. JSON needs 'Content-Type: application/json'. {HOW_TO}"
        )
    return RequestError(415, "content_type_unsupported", message)


def read_form(content_type: str, body: bytes, settings: Settings, names: tuple[str, ...] = (PART_NAME,)) -> Upload:
    """Return the parts of these names in order; raises RequestError for a broken body, or one over a limit."""
    parts: list[Part] = []
    fields: dict[str, str] = {}
    others: set[str] = set()
    not_chosen = urls = 0
    for count, (header, start, end) in enumerate(split_multipart(boundary_of(content_type), body)):
        if count - len(fields) - min(not_chosen, MAX_NOT_CHOSEN) >= settings.max_parts:
            raise too_many_parts(settings)
        name, filename = names_of(header)
        if name in FIELDS and not filename:
            fields[name] = body[start : min(end, start + MAX_FIELD)].decode("utf-8", "replace").strip()
        elif name not in names:
            others.add(name[:40])
        elif start == end and filename == "":
            not_chosen += 1  # what a browser sends for an input in which no file was chosen
        elif end - start > settings.max_part_bytes:
            raise too_big_part(len(parts), filename or "", end - start, settings)
        else:
            data = body[start:end]
            urls = with_url(urls, filename, data)
            parts.append(Part(filename or "", data if filename else file_of(len(parts), data)))
    if names == (PART_NAME,):
        refuse_typos(others)
    if not parts and not_chosen:
        raise RequestError(400, "no_picture", "No file was chosen. Choose a picture, and send again.")
    if not parts and others:
        sent = ", ".join(repr(name) for name in sorted(others)[:5])
        raise RequestError(400, "no_picture", f"No part is named {names[0]!r}; the request has {sent}. {HOW_TO}")
    return Upload(parts, fields)


def with_url(before: int, filename: str | None, data: bytes) -> int:
    """Return the bytes of data: URLs with those of one part more; raises RequestError for too many."""
    found = before + (len(data) if not filename and is_data_url(data) else 0)
    if found > MAX_DATA_URLS:
        message = f"The data: URLs of a form are over the limit of {MAX_DATA_URLS:,} bytes. Send files instead."
        raise RequestError(413, "body_too_large", message)
    return found


def is_data_url(data: bytes) -> bool:
    """Return whether a part holds a data: URL, which is decoded where it has no file's name."""
    return data[:5].lower() == b"data:"


def file_of(index: int, data: bytes) -> bytes:
    """Return the file in a part without a file's name: a page may send a data: URL. Raises RequestError."""
    if is_data_url(data):
        try:
            return bodies.from_base64(data.decode("latin-1"))
        except bodies.Base64Error as error:
            raise RequestError.of_parts([BadPart(index, "", "base64_malformed", str(error))], index + 1) from error
    text = ""
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode().strip() if len(data) <= bodies.MAX_HEAD else ""
    if bodies.ADDRESS.match(text):
        message = f"Part {index} holds an address. The server fetches nothing: send the file, as -F file=@photo.jpg"
        raise RequestError(400, "no_picture", message)
    if len(data) <= MAX_FILENAME and (is_name := bodies.FILE_NAME.fullmatch(text)):
        name = is_name[0].lstrip("@")
        how = shlex.join(["-F", f"file=@{name}"])
        message = f"Part {index} holds the text {name!r} and no file. Did you forget the @? Write {how}"
        raise RequestError(400, "no_picture", message)
    return data


def split_multipart(boundary: bytes, body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (header block, start, end) of each part of a multipart body (RFC 2046, 5.1.1); raises RequestError."""
    delimiter, tries = b"\r\n--" + boundary, iter(range(MAX_NO_DELIMITERS))
    at = 0 if body.startswith(delimiter[2:]) else find_delimiter(delimiter, body, 0, tries) + 2
    if at == 1:
        raise malformed("its boundary does not occur in the body")
    index = 0
    at += len(delimiter) - 2
    while body[at : at + 2] != b"--":
        at = body.find(
            b"\r\n", at, at + MAX_PART_HEADER
        )  # skips padding after the boundary, which find_delimiter has checked
        header_end = body.find(b"\r\n\r\n", at, at + MAX_PART_HEADER) if at >= 0 else -1
        if header_end < 0:
            raise malformed(f"part {index} has no end of its header within {MAX_PART_HEADER} bytes")
        end = find_delimiter(delimiter, body, header_end + 2, tries)
        if end < 0:
            raise malformed(f"part {index} breaks off before the closing boundary")
        yield body[at + 2 : header_end], header_end + 4, max(end, header_end + 4)
        at = end + len(delimiter)
        index += 1


def find_delimiter(delimiter: bytes, body: bytes, start: int, tries: Iterator[int]) -> int:
    """Return where the next whole delimiter line begins, or -1: data may hold the boundary followed by other bytes.

    Raises RequestError where that is so more often than there are `tries`.
    """
    at = find(delimiter, body, start)
    while at >= 0:
        after = at + len(delimiter)
        if body[after : after + 2] in (b"\r\n", b"--"):
            break
        line_end = body.find(b"\r\n", after, after + 80)
        if line_end >= 0 and not body[after:line_end].strip(b" \t"):
            break
        if next(tries, None) is None:
            raise malformed("lines of its data begin as its boundary does")
        at = find(delimiter, body, after)
    return at


def find(sign: bytes, body: bytes, start: int) -> int:
    """Return what body.find(sign, start) does, but let other threads run each mebibyte. Raises DeadlineError."""
    for at in range(start, len(body), PIECE):
        bodies.check_time()
        if (found := body.find(sign, at, at + PIECE + len(sign) - 1)) >= 0:
            return found
    return -1


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that the header names; raises RequestError."""
    boundary = parameters_of(content_type).get("boundary", "")
    if not BOUNDARY.fullmatch(boundary):
        raise malformed("the Content-Type header has no valid boundary")
    return boundary.encode("ascii")


def names_of(header: bytes) -> tuple[str, str | None]:
    """Return a part's field name and file name, if it gives one; the latter is only ever shown back to the client."""
    disposition = DISPOSITION.search(header.decode("utf-8", "replace"))
    given = parameters_of(disposition[1]) if disposition else {}
    encoded = given.get("filename*", "")[: 4 * MAX_FILENAME]  # RFC 5987: charset'language'percent-encoded
    filename = unquote(encoded.rpartition("'")[2]) if encoded else given.get("filename")
    return given.get("name", ""), filename and filename.replace('\\"', '"').replace("%22", '"')[:MAX_FILENAME]


def parameters_of(value: str) -> dict[str, str]:
    """Return the `; key=value` pairs of a header's value, the first MAX_PARAMETERS."""
    pairs = (match.groups("") for match in itertools.islice(PARAMETER.finditer(value), MAX_PARAMETERS))
    return {name.lower(): quoted or token for name, quoted, token in pairs}


def read_json(body: bytes, settings: Settings) -> Upload:
    """Return the pictures of {"images": ["<base64>" or a data: URL, ...]}; raises RequestError."""
    try:
        document: Any = bodies.parse(body, MAX_JSON_VALUES, "Send pictures as multipart parts.")
    except (ValueError, RecursionError) as error:
        reason = str(error)[:100] if isinstance(error, json.JSONDecodeError) else "it cannot be decoded"
        raise RequestError(400, "json_malformed", f"The body is not JSON: {reason}. {HOW_TO}") from error
    encoded = document.get("images") if isinstance(document, dict) else None
    if not isinstance(encoded, list):
        raise RequestError(400, "json_malformed", f"The JSON has no list 'images'. {HOW_TO}")
    if len(encoded) > settings.max_parts:
        raise too_many_parts(settings)
    parts: list[Part] = []
    bad: list[BadPart] = []
    for index, value in enumerate(encoded):
        try:
            data = bodies.from_base64(value)
        except bodies.Base64Error as error:
            bad.append(BadPart(index, "", "base64_malformed", str(error)))
            continue
        if len(data) > settings.max_part_bytes:
            raise too_big_part(index, "", len(data), settings)
        parts.append(Part("", data))
    if bad:
        raise RequestError.of_parts(bad, len(encoded))
    refuse_typos(document.keys() - FIELDS - {"images"})
    given = {name: document[name] for name in FIELDS if document.get(name) is not None}
    return Upload(parts, {name: as_field(value) for name, value in given.items()})


def as_field(value: Any) -> str:
    """Return a JSON value as the query string would give it: as much of it as of a form's field."""
    if isinstance(value, list | dict):
        return bodies.kind_of(value)  # which may be long if it is written out
    return str(int(value) if isinstance(value, bool) else value)[:MAX_FIELD]


def refuse_typos(names: Collection[str]) -> None:
    """Raise RequestError for a field that is nearly called like a parameter: it would pass unseen; or for too many."""
    if len(names) > MOST_UNKNOWN:
        message = f"{len(names):,} unknown fields are over the limit of {MOST_UNKNOWN}. Leave them out."
        raise RequestError(400, "query_invalid", message)
    for name in sorted(names):
        near = nearest(name, ALLOWED, cutoff=0.75) if len(name) > 2 else None
        if near is not None:
            raise RequestError(400, "query_invalid", f"Unknown field {name[:40]!r}. Did you mean {near!r}?")


def malformed(reason: str) -> RequestError:
    """Say why a multipart body cannot be read."""
    return RequestError(400, "multipart_malformed", f"The multipart body cannot be read: {reason}.")


def too_many_parts(settings: Settings) -> RequestError:
    """Say how many parts there may be."""
    return RequestError(413, "too_many_parts", f"More than {settings.max_parts} parts. Send several smaller requests.")


def too_big_part(index: int, filename: str, size: int, settings: Settings) -> RequestError:
    """Say which part is too big, and what the limit is."""
    message = f"The picture has {size:,} bytes, over the limit of {settings.max_part_bytes:,}. Make it smaller."
    return RequestError(
        413, "image_too_many_bytes", message, [BadPart(index, filename, "image_too_many_bytes", message, 413)]
    )

"""Parses HTTP/1.1 requests from bytes (RFC 9112): strict, bounded, no I/O.

What is ambiguous is refused, not guessed: two readings of one request are how requests are smuggled past a proxy.
Nothing is accepted that h11 refuses (tests/test_server_parser.py).
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pupila.server.api.errors import RequestError

MAX_HEAD = 16384
MAX_HEADERS = 64
MAX_CHUNK_LINE = 256
MAX_TRAILER = 4096
MAX_FRAMING = 65536
"""Bytes that the lines between a body's chunks may have beyond those of the chunks: a byte a chunk is an attack."""
LINES = 1000
"""Lines between chunks that are read at a stretch: about a millisecond."""
HEAD_END = b"\r\n\r\n"

REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (?:https?://[!$-.0->A-~]+)?(/[!-~]*|\*) HTTP/1\.([01])\r\n")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([\t -~\x80-\xff]*+)\r\n")
"""Possessive: a line of blanks that cannot match would else be tried from each of them on, which takes a second."""
PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n"
PROXIED = "the PROXY protocol is not spoken here. Have the proxy send X-Forwarded-For, and name it in --forwarded-allow"
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
CHUNK_LINE = re.compile(rb'([0-9A-Fa-f]{1,8})(?:;%b(?:=(?:%b|"[\t !#-[\]-~]*"))?)*' % (TOKEN, TOKEN))


class ProtocolError(RequestError):
    """Bytes that are not a request we read; the connection cannot go on after it."""


@dataclass(slots=True)
class Head:
    """Request line and headers."""

    method: str
    target: str
    """As it was sent."""
    path: str
    """Percent-decoded, each byte one character, as WSGI wants it."""
    query: str
    version: str
    headers: dict[str, str]
    """By CGI name: HTTP_HOST, CONTENT_TYPE; repeated ones joined by commas."""
    length: int
    """Of the body in bytes; 0 for a chunked one, which does not say."""
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    scheme: str = "http"
    """How the client asked: http or https."""
    prefix: str = ""
    """What a proxy has put before the path."""


KEYS: dict[bytes, str] = {}
"""CGI names of short headers met before; bounded, since clients choose them."""


def check_start(data: bytes | bytearray) -> None:
    """Refuse at once what cannot become a request, such as TLS sent to this plain port. Raises ProtocolError."""
    if data[:1] == b"\x16":
        raise malformed("TLS was sent to a port of plain HTTP. Use http://, or put a proxy that ends TLS in front")
    if data.startswith(PROXY_V2):
        raise malformed(PROXIED)
    if data and not 65 <= data[0] <= 90:
        raise bad_request_line(bytes(data))
    first = data.find(b"\n", 0, MAX_HEAD)
    if first > 0 and data[first - 1] != 13:
        raise malformed("a line ends with \\n alone, and has to end with \\r\\n")


def parse_head(data: bytes | bytearray, end: int) -> Head:
    """Read the request head data[:end], where `end` is just after the first line end of its HEAD_END."""
    line = REQUEST_LINE.match(data)
    if line is None:
        raise bad_request_line(bytes(data[:end]))
    headers = parse_headers(data, line.end(), end)
    version = "HTTP/1.1" if line[3] == b"1" else "HTTP/1.0"
    if version == "HTTP/1.1" and "HTTP_HOST" not in headers:
        raise malformed("there is no Host header")
    target = line[2].decode("ascii")
    path, _, query = target.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    connection = headers.get("HTTP_CONNECTION", "").lower()
    keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    length, chunked = body_framing(headers, version)
    expects = headers.get("HTTP_EXPECT", "").lower() == "100-continue" and version == "HTTP/1.1"
    method = line[1].decode("ascii")
    if method == "CONNECT":  # whose body other parsers take for the tunnel's
        raise malformed("CONNECT is for proxies, and this is none")
    return Head(method, target, path, query, version, headers, length, chunked, keep_alive, expects)


def parse_headers(data: bytes | bytearray, at: int, end: int) -> dict[str, str]:
    """Return the headers between two offsets."""
    headers: dict[str, str] = {}
    count = 0
    while at < end:
        field = HEADER.match(data, at, end)
        if field is None:
            raise malformed("a header line is not 'Name: value'")
        count += 1
        if count > MAX_HEADERS:
            raise ProtocolError(431, "headers_too_many", f"More than {MAX_HEADERS} headers.")
        at = field.end()
        name = field[1]
        if b"_" in name:
            continue  # X_Forwarded_For and X-Forwarded-For would look the same to an application
        key = KEYS.get(name) or key_of(name)
        value = field[2].decode("latin-1").rstrip(" \t")
        if key in headers:
            if key in ("CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_HOST", "CONTENT_TYPE"):
                raise malformed(f"the header {name.decode()} is repeated")
            value = f"{headers[key]},{value}"
        headers[key] = value
    return headers


def key_of(name: bytes) -> str:
    """Return a header's CGI name, and remember it if it is short."""
    upper = name.decode("ascii").upper().replace("-", "_")
    key = upper if upper in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{upper}"
    if len(KEYS) < 512 and len(name) <= 64:
        KEYS[name] = key
    return key


def body_framing(headers: dict[str, str], version: str) -> tuple[int, bool]:
    """Return the body's length and whether it is chunked instead (RFC 9112, section 6)."""
    length = headers.get("CONTENT_LENGTH")
    coding = headers.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if length is not None or version == "HTTP/1.0":
            raise malformed("Transfer-Encoding stands beside Content-Length, or in HTTP/1.0")
        if coding.lower() != "chunked":
            raise ProtocolError(501, "transfer_encoding_unknown", "Of transfer encodings only 'chunked' is read.")
        return 0, True
    if length is None:
        return 0, False
    if not (length.isascii() and length.isdigit() and len(length) <= 15):
        raise malformed("Content-Length is not a number")
    return int(length), False


def bad_request_line(head: bytes) -> ProtocolError:
    """Say what is wrong with a first line that is not a request line."""
    line = head.partition(b"\r\n")[0]
    if re.search(rb" HTTP/\d", line) and not re.search(rb" HTTP/1\.[01]$", line):
        return ProtocolError(505, "http_version_unknown", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    if re.match(rb"[a-z]+ \S", line):
        return malformed("methods are written in capitals, like GET and POST")
    return malformed(PROXIED if line.startswith(b"PROXY ") else "the first line is not a request line")


def malformed(reason: str) -> ProtocolError:
    """Say why a request cannot be read."""
    return ProtocolError(400, "request_malformed", f"The HTTP request cannot be read: {reason}.")


class Chunks:
    """Takes a chunked body apart as it arrives (RFC 9112, section 7.1)."""

    def __init__(self, limit: int) -> None:
        self.body = bytearray()
        self.done = False
        self.paused = False
        """Not all that could be consumed has been."""
        self.limit = limit
        self._consumed = 0
        self._missing = 0
        """Bytes of the current chunk that have not come yet."""
        self._inside = False
        """Whether the end of a chunk's data is still to come."""
        self._trailer = False
        self._trailer_bytes = 0

    def feed(self, data: bytearray) -> None:
        """Consume what can be, at most LINES lines; `done` says that the body is complete. Raises ProtocolError."""
        at = lines = 0
        self.paused = False
        while not self.done and at < len(data):
            if self._missing:
                piece = data[at : at + self._missing]
                self.body += piece
                self._missing -= len(piece)
                at += len(piece)
            elif lines == LINES:
                self.paused = True
                break
            else:
                line_end = data.find(b"\r\n", at, at + MAX_CHUNK_LINE)
                if line_end < 0:
                    if len(data) - at >= MAX_CHUNK_LINE:
                        raise malformed("a line of the chunked body is too long")
                    break
                self._take_line(bytes(data[at:line_end]))
                at = line_end + 2
                lines += 1
        self._count(at)
        del data[:at]

    def _take_line(self, line: bytes) -> None:
        """Handle a line between the chunks: an end of data, a size, or a trailer."""
        if self._inside:
            if line:
                raise malformed("a chunk is longer than it says")
            self._inside = False
        elif self._trailer:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > MAX_TRAILER:
                raise malformed("its trailer is too long")
            if line and HEADER.fullmatch(line + b"\r\n") is None:
                raise malformed("a line of its trailer is not 'Name: value'")
            self.done = not line
        else:
            size = CHUNK_LINE.fullmatch(line)
            if size is None:
                raise malformed("a chunk has no size")
            self._missing = int(size[1], 16)
            self._inside = self._missing > 0
            self._trailer = self._missing == 0
            if len(self.body) + self._missing > self.limit:
                raise ProtocolError(413, "body_too_large", f"The body is over the limit of {self.limit:,} bytes.")

    def _count(self, consumed: int) -> None:
        """Refuse a body that is mostly framing: it costs its reader more than its sender."""
        self._consumed += consumed
        if self._consumed - len(self.body) > len(self.body) + MAX_FRAMING:
            raise malformed("its chunks are too small")

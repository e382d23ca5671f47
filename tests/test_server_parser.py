"""The HTTP parser beside h11 and httptools (llhttp): nothing is accepted that h11 refuses, and all are read alike."""

import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import h11
import httptools
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pupila.server.transport.connection import Connection
from pupila.server.transport.parser import ProtocolError

CASES = int(os.environ.get("PUPILA_PARSER_CASES", "300"))
"""Of each kind; 10,000 take about a minute."""
Read = list[tuple[bytes, bytes, bytes]]
"""Method, target and body of each request that was accepted whole, in order."""
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

ORIGIN = re.compile(rb"^https?://[^/]+(?=/)")
"""What stands before the path if a target names its host, as for a proxy; we leave it out."""

LENGTHS = (b"+5", b"-5", b"0x5", b"5 ", b"", b"5_0", b"\xb25", b"05")
ODD_TARGETS = (
    *b"* // /a#b /%00 /%zz http://b/c http://b?q/c http://b@c#/d http://b#/c a ?q /\xff /\x7f".split(),
    b"/a\tb",
    b"/a b",
    b"",
)
ODD_VERSIONS = (b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"")
ODD_METHODS = (b"get", b"G\x00T", b"GET ", b" GET", b"PRI", b"A" * 40)

CORPUS = [
    POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    POST + b"Content-Length: 5, 5\r\n\r\nhello",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: identity\r\n\r\nhello",
    POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    *(POST + b"Content-Length: %s\r\n\r\nhello" % length for length in LENGTHS),
    POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    CHUNKED + b'5;name="value"\r\nhello\r\n0\r\n\r\n' + NEXT,
    CHUNKED + b"5 ;a=b\r\nhello\r\n0\r\n\r\n" + NEXT,
    CHUNKED + b"5;a=b\nhello\r\n0\r\n\r\n",
    CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"5 \r\nhello\r\n0 \r\n\r\n" + NEXT,
    CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    CHUNKED + b"5\r\nhello0\r\n\r\n",
    CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"0000000000000005\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"FFFFFFFFFFFFFFFFF\r\nhello",
    CHUNKED + b"0\r\nTrailer: x\r\nOther: y\r\n\r\n" + NEXT,
    CHUNKED + b"0\r\nno colon\r\n\r\n" + NEXT,
    CHUNKED + b"0\r\n folded\r\n\r\n" + NEXT,
    CHUNKED + b"0\r\nBad\x00: x\r\n\r\n" + NEXT,
    CHUNKED + b"0\r\nGET / HTTP/1.1\r\n\r\n" + NEXT,
    CHUNKED + b"0\r\nA: b\n\r\n" + NEXT,
    HEAD + b"X: a\r\n folded\r\n\r\n" + NEXT,
    HEAD + b"X: a\r\n\tfolded\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    HEAD + b"X: a\rb\r\n\r\n",
    HEAD + b"X: a\nY: b\r\n\r\n",
    HEAD + b"X: a\n\n" + NEXT,
    HEAD + b"X: a\r\r\n\r\n",
    HEAD + b"X: a\x00b\r\n\r\n",
    HEAD + b"X: \xff\xfe\r\n\r\n",
    HEAD + b"X\xff: a\r\n\r\n",
    HEAD + b": a\r\n\r\n",
    HEAD + b"X\r\n\r\n",
    HEAD + b"Host: b\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"\r\n" + NEXT,
    b"\n" + NEXT,
    b"\r\n\r\n" + NEXT,
    POST + b"Content-Length: 2\r\n\r\nhi\r\n" + NEXT,
    *(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target for target in ODD_TARGETS),
    *(b"GET / %s\r\nHost: a\r\n\r\n" % version for version in ODD_VERSIONS),
    *(b"%s / HTTP/1.1\r\nHost: a\r\n\r\n" % method for method in ODD_METHODS),
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
]


def ours(wire: bytes) -> Read:
    sock, other = socket.socketpair()
    with sock, other:
        connection = Connection(sock, "", 0.0, 60.0, 10_000)
        connection.buffer += wire
        found: Read = []
        try:
            while connection.buffer:
                connection.head_arrived()
                request = connection.take(0.0)
                if request is None:
                    if not connection.paused:
                        break
                    continue
                found.append((request.head.method.encode(), request.head.target.encode(), request.context.body))
                if not request.head.keep_alive:
                    break
        except ProtocolError:
            pass
        return found


def h11s(wire: bytes) -> Read:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(wire)
    found: Read = []
    try:
        while True:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                return found
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                return found
            found.append((request.method, ORIGIN.sub(b"", request.target), body))
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return found
            connection.start_next_cycle()
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return found


class Llhttp:
    """Notes what httptools reads."""

    def __init__(self) -> None:
        self.found: Read = []
        self.url = self.body = b""
        self.parser: Any = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.url = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.found.append((self.parser.get_method(), ORIGIN.sub(b"", self.url), self.body))


def llhttps(wire: bytes) -> tuple[Read, bool]:
    """Return what is read, and whether that was all that llhttp cares to read: it knows some methods and URLs only."""
    noting = Llhttp()
    try:
        noting.parser.feed_data(wire)
    except httptools.HttpParserUpgrade:
        return noting.found, True
    except httptools.HttpParserError as error:
        return noting.found, any(
            word in str(error) for word in ("method", "url", "Preface", "after `Connection: close`")
        )
    return noting.found, False


def check(wire: bytes) -> None:
    """Compare the three."""
    accepted = ours(wire)
    assert h11s(wire)[: len(accepted)] == accepted
    reference, gave_up = llhttps(wire)
    count = min(len(accepted), len(reference)) if gave_up else len(accepted)
    assert reference[:count] == accepted[:count]


@pytest.mark.parametrize("wire", CORPUS)
def test_hard_case_is_read_as_the_others_read_it_or_refused(wire: bytes) -> None:
    check(wire)
    check(wire + NEXT)


ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n"])
PLAIN_NAMES = b"Content-Length content-length Transfer-Encoding Host Connection Content-Type Expect X X-A X_A".split()
NAMES = st.sampled_from([*PLAIN_NAMES, b" X", b"X ", b"", b"X\xe9", b"\tX", b"Content-Length ", b"Upgrade"])
PLAIN_VALUES = b"0 5 6 +5 chunked Chunked identity chunked;q=1 a close keep-alive 100-continue \xff \x00 \x7f".split()
ODD_VALUES = [b"", b"5, 5", b"5 ", b"gzip, chunked", b"a\tb", b"a\rb", b"a\nb", b"\x0b", b"h2c"]
VALUES = st.sampled_from(PLAIN_VALUES + ODD_VALUES)
COLONS = st.sampled_from([b": "] * 8 + [b":", b" : ", b":\t", b""])
SIZES = st.sampled_from(
    [b"5", b"5", b"05", b"5;a", b'5;a="b"', b"5 ", b"5 ;a", b" 5", b"0x5", b"+5", b"6", b"", b"5\t", b"5;\xff"]
)
LASTS = st.sampled_from(
    [b"0", b"0", b"00", b"0;a", b"0 ", b"", b"0\r\nA: b", b"0\r\nA b", b"0\r\n A: b", b"0\r\nA: \x00"]
)
METHODS = st.sampled_from(
    [b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"get", b"G-T", b"", b"CONNECT", b"PRI"]
)
TARGETS = st.sampled_from([b"/", b"/a?b=c", b"*", b"http://a/b", b"a", b"/a b", b"/\xff", b"/#a", b"//", b"", b"/%2e"])
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b""])


@st.composite
def requests(draw: Any) -> bytes:
    """Draw a request that is whole, or wrong in one or more of its places."""
    end = (lambda: draw(ENDS)) if draw(st.booleans()) else (lambda: b"\r\n")
    wire = draw(METHODS) + b" " + draw(TARGETS) + b" " + draw(VERSIONS) + end() + b"Host: a" + end()
    for _ in range(draw(st.integers(0, 3))):
        wire += draw(NAMES) + draw(COLONS) + draw(VALUES) + end()
    if draw(st.booleans()):
        wire += draw(st.sampled_from([b"Content-Length: 5", b"Transfer-Encoding: chunked"])) + end()
    wire += end()
    if draw(st.booleans()):
        return wire + draw(st.sampled_from([b"", b"hello", b"hello!", b"hell"]))
    for _ in range(draw(st.integers(0, 2))):
        wire += draw(SIZES) + end() + b"hello" + end()
    return wire + draw(LASTS) + end() + end()


MANY = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


@given(st.lists(requests(), min_size=1, max_size=3))
@MANY
def test_drawn_requests_are_read_alike_or_refused(drawn: list[bytes]) -> None:
    check(b"".join(drawn))


@given(
    st.sampled_from(CORPUS),
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(range(3)), st.binary(max_size=2)), max_size=3),
)
@example(NEXT, [])
@MANY
def test_mutated_requests_are_read_alike_or_refused(wire: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    for at, kind, data in changes:
        place = at % (len(wire) + 1)
        wire = wire[:place] + data + wire[place + (kind > 0) * len(data) + (kind > 1) :]
    check(wire + NEXT)


def pieces(wire: bytes) -> Iterator[bytes]:
    yield from (wire[at : at + 1] for at in range(len(wire)))


@pytest.mark.parametrize("wire", CORPUS)
def test_reading_does_not_depend_on_how_the_bytes_arrive(wire: bytes) -> None:
    sock, other = socket.socketpair()
    with sock, other:
        connection = Connection(sock, "", 0.0, 60.0, 10_000)
        found: Read = []
        try:
            for piece in pieces(wire):
                connection.buffer += piece
                connection.head_arrived()
                request = connection.take(0.0)
                if request is not None:
                    found.append((request.head.method.encode(), request.head.target.encode(), request.context.body))
                    if not request.head.keep_alive:
                        break
        except ProtocolError:
            pass
    assert found == ours(wire)

"""The HTTP parser: one request has one reading, or it is refused."""

import itertools
import random
import socket

import pytest

from pupila.server.transport.connection import Connection, ConnectionTable
from pupila.server.transport.parser import (
    HEAD_END,
    LINES,
    MAX_FRAMING,
    MAX_HEAD,
    Chunks,
    Head,
    ProtocolError,
    parse_head,
)


def test_connection_that_is_dropped_twice_leaves_the_next_one_of_its_number_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = ConnectionTable(memoryview(bytearray(64)).cast("d"), 60, 1000)
        with socket.create_connection(listener.getsockname()), socket.create_connection(listener.getsockname()):
            assert pool.accept(listener)
            first = next(iter(pool.open.values()))
            pool.drop(first)
            assert pool.accept(listener)
            second = pool.open[first.fd]
            pool.drop(first)
            assert second in pool and first not in pool
            pool.drop(second)
        pool.selector.close()


@pytest.mark.parametrize(("size", "taken"), [(MAX_HEAD, True), (MAX_HEAD + 1, False)])
@pytest.mark.parametrize("last", range(1, 7))
def test_head_of_the_greatest_size_is_read_however_it_is_cut(size: int, taken: bool, last: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    assert reads(head + b"x" * (size - len(head)) + HEAD_END, cuts=(1, -last)) is taken


def reads(data: bytes, cuts: tuple[int, ...]) -> bool:
    """Return whether a connection finds a head in what comes in pieces; False if it refuses it."""
    sock, other = socket.socketpair()
    with sock, other:
        connection = Connection(sock, "127.0.0.1", 0.0, 60.0, 1000)
        edges = [0, *(cut % len(data) for cut in cuts), len(data)]
        try:
            for start, end in itertools.pairwise(edges):
                connection.buffer += data[start:end]
                head = connection.head_arrived()
        except ProtocolError as error:
            assert error.status == 431
            return False
        return head is not None


def parse(data: bytes) -> Head:
    return parse_head(data, data.index(HEAD_END) + 2)


def test_request_is_read() -> None:
    head = parse(b"POST /predict%20x?top=3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    assert (head.method, head.path, head.query, head.length) == ("POST", "/predict x", "top=3", 5)
    assert head.headers["HTTP_X_A"] == "1,2"
    assert head.keep_alive and not head.chunked


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"post /predict HTTP/1.1\r\n", "methods are written in capitals, like GET and POST"),
        (b"GET / HTTP/1.1\nHost: a\n\n", r"a line ends with \n alone, and has to end with \r\n"),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "the PROXY protocol is not spoken",
        ),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "the PROXY protocol is not spoken here. Have the proxy send"),
        (b"\x16\x03\x01\x02\0", "TLS was sent to a port of plain HTTP"),
    ],
)
def test_what_is_no_request_is_refused_at_once_by_what_it_is(data: bytes, said: str) -> None:
    sock, other = socket.socketpair()
    with sock, other:
        connection = Connection(sock, "127.0.0.1", 0.0, 60.0, 1000)
        connection.buffer += data
        with pytest.raises(ProtocolError) as refused:
            connection.head_arrived()
    assert refused.value.status == 400 and said in str(refused.value)


def test_old_clients_are_not_kept_unless_they_ask() -> None:
    assert not parse(b"GET / HTTP/1.0\r\n\r\n").keep_alive
    assert parse(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive
    assert not parse(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").keep_alive


def test_header_with_an_underscore_cannot_pose_as_another() -> None:
    assert "HTTP_X_KEY" not in parse(b"GET / HTTP/1.1\r\nHost: a\r\nX_Key: 1\r\n\r\n").headers


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a", 505),
        (b"GET /\r\nHost: a", 400),
        (b"get / HTTP/1.1\r\nHost: a", 400),
        (b"GET /a b HTTP/1.1\r\nHost: a", 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        (b"GET / HTTP/1.1\r\nHost : a", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: b", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join(b"X%d: 1" % i for i in range(80)), 431),
    ],
)
def test_ambiguous_requests_are_refused(lines: bytes, status: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(lines + HEAD_END)
    assert caught.value.status == status


def test_chunked_body_is_put_together_however_it_is_cut() -> None:
    wire = b"4\r\nWiki\r\n6;name=value\r\npedia \r\nC\r\nin\r\nchunks.\n\r\n0\r\nTrailer: x\r\n\r\nNEXT"
    for seed in range(200):
        rng = random.Random(seed)
        chunks, buffer, at = Chunks(1000), bytearray(), 0
        while at < len(wire):
            step = rng.randint(1, 9)
            buffer += wire[at : at + step]
            at += step
            chunks.feed(buffer)
        assert chunks.done
        assert bytes(chunks.body) == b"Wikipedia in\r\nchunks.\n"
        assert bytes(buffer) == b"NEXT"


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"zz\r\n", 400),
        (b"-1\r\n", 400),
        (b"0x1\r\n", 400),
        (b"2\r\nabc\r\n", 400),
        (b"1" + b"0" * 300, 400),
        (b"FFFFFFFF\r\n", 413),
        (b"0\r\n" + b"a: b\r\n" * 2000, 400),
    ],
)
def test_broken_or_oversized_chunks_are_refused(wire: bytes, status: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        Chunks(1000).feed(bytearray(wire))
    assert caught.value.status == status


def test_lines_of_a_chunked_body_are_read_so_many_at_a_stretch() -> None:
    wire = bytearray(b"8\r\n12345678\r\n" * LINES + b"0\r\n\r\n")
    chunks, stretches = Chunks(8 * LINES), 0
    while not chunks.done:
        chunks.feed(wire)
        stretches += 1
        assert chunks.done or chunks.paused
        assert len(chunks.body) <= 4 * LINES * stretches
    assert stretches == 3 and len(chunks.body) == 8 * LINES and not wire


def test_body_that_is_mostly_framing_is_refused_early() -> None:
    chunks, sent = Chunks(10**9), 0
    with pytest.raises(ProtocolError, match="chunks are too small"):
        while sent < 10**6:
            chunks.feed(bytearray(b"1\r\nx\r\n" * (LINES // 2)))
            sent += 3 * LINES
    assert sent < 2 * MAX_FRAMING

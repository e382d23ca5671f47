"""Content-Encoding of request bodies: gzip and deflate, inflated within limits of size and of ratio (RFC 9110, 8.4)."""

import zlib
from collections.abc import Mapping
from typing import Any

from pupila.server.api.errors import RequestError

MAX_RATIO = 100
"""Times its compressed size that a body may have; deflate can reach 1,032, and no picture or JSON of pictures does."""
FREE = 2**20
"""Bytes that may come of any body, whatever the ratio."""
STEP = 2**18
"""Bytes that are inflated at a time."""
MAX_MEMBERS = 100
"""Pieces that a gzip body may be put together from."""
WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decoded(environ: Mapping[str, Any], body: bytes, limit: int) -> bytes:
    """Return a body as it was before its Content-Encoding; raises RequestError."""
    coding = str(environ.get("HTTP_CONTENT_ENCODING", "")).strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in WINDOW:
        raise encoding_unsupported(coding)
    window = WINDOW[coding]
    if coding == "deflate" and not is_zlib(body):
        window = -zlib.MAX_WBITS  # deflate without zlib's two bytes before it, as some clients send it
    try:
        return inflate(body, window, min(limit, max(FREE, MAX_RATIO * len(body))))
    except zlib.error as error:
        raise malformed(coding, "its bytes are not of this encoding") from error


def encoding_unsupported(coding: str) -> RequestError:
    """Say which encodings are read."""
    message = f"Content-Encoding {coding[:40]!r} is not read here. Send the body as it is, or in gzip or deflate."
    return RequestError(415, "content_encoding_unsupported", message)


def is_zlib(body: bytes) -> bool:
    """Return whether a body begins as zlib's format does (RFC 1950)."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def inflate(body: bytes, window: int, limit: int) -> bytes:
    """Return the inflated body, of at most `limit` bytes; several gzip members are one body (RFC 1952, 2.2)."""
    found = bytearray()
    for _ in range(MAX_MEMBERS):
        stream = zlib.decompressobj(window)
        while not stream.eof:
            found += stream.decompress(body, STEP)
            body = stream.unconsumed_tail
            if len(found) > limit:
                message = f"The body inflates to more than {limit:,} bytes, the most for its size. Send it in parts."
                raise RequestError(413, "body_too_large", message)
            if not body and not stream.eof:
                raise malformed("compressed", "it breaks off before its end")
        body = stream.unused_data.lstrip(b"\0")
        if not body:
            return bytes(found)
        if window < 16:
            break
    raise malformed("compressed", "something stands after its end")


def malformed(coding: str, reason: str) -> RequestError:
    """Say why a body cannot be inflated."""
    return RequestError(400, "content_encoding_malformed", f"The {coding} body cannot be inflated: {reason}.")

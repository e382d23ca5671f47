"""From a request's body to its JSON document, within bounds that are checked before it is parsed. Knows no contents.

Python takes some 60 to 120 bytes for a value that is three bytes of JSON, and four bytes a letter if one of them all is
beyond the first plane.
"""

import json
from typing import Any

from pupila.server.api.errors import RequestError

MAX_BYTES = 32 * 2**20
MAX_BYTES_BEYOND_ASCII = 8 * 2**20
MANY = 1_000


def parse(body: bytes, most: int, instead: str) -> Any:
    """Return the document; `instead` says how to send more than `most` values, or a bigger body.

    Raises RequestError for what is over a limit, and ValueError or RecursionError for what is no JSON.
    """
    limit = MAX_BYTES if body.isascii() else MAX_BYTES_BEYOND_ASCII
    if len(body) > limit:
        message = f"JSON of {len(body):,} bytes is over the limit of {limit:,}. {instead}"
        raise RequestError(413, "body_too_large", message)
    if sum(count(body, sign) for sign in (b",", b"[", b"{")) > most:  # each value comes after one of these, or a key
        raise RequestError(413, "json_too_many_values", f"The JSON has more than {most:,} values. {instead}")
    return json.loads(body)


def count(body: bytes, sign: bytes) -> int:
    """Return body.count(sign), which looks at every byte, sixty times as fast where strings are long: find() leaps."""
    found, at = 0, body.find(sign)
    while at >= 0 and found < MANY:
        found += 1
        at = body.find(sign, at + 1)
    return found if at < 0 else found + body.count(sign, at)

"""Bodies of requests, within bounds that are checked first: Content-Encoding (RFC 9110, 8.4), JSON, base64.

Python takes some 60 to 120 bytes for a value that is three bytes of JSON, and four bytes a letter if one of them all is
beyond the first plane.
"""

import base64
import binascii
import contextlib
import gc
import itertools
import json
import math
import re
import string
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from pupila.server.api.errors import DeadlineError, QueueFullError, RequestError

MAX_RATIO = 100
"""Times its compressed size that a body may have; deflate can reach 1,032, and no picture or JSON of pictures does."""
FREE = 2**20
"""Bytes that may come of any body, whatever the ratio."""
STEP = 2**14
"""Bytes that are inflated at a time: they become 16 MiB at most."""
INFLATE_SECONDS, INFLATE_SECONDS_A_BYTE = 0.25, 30e-9
"""Of processor time that inflating may take, and more for each byte that comes of it: five times what it does take."""
ZEROS = re.compile(rb"\0*")
"""What may fill up a body behind its end."""
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
        raise inflate_failed(coding, "its bytes are not of this encoding") from error


def too_big_body(limit: int) -> RequestError:
    """Say how big a body may be."""
    return RequestError(413, "body_too_large", f"The body is over the limit of {limit:,} bytes. Send several requests.")


def encoding_unsupported(coding: str) -> RequestError:
    """Say which encodings are read."""
    message = f"Content-Encoding {coding[:40]!r} is not read here. Send the body as it is, or in gzip or deflate."
    return RequestError(415, "content_encoding_unsupported", message)


def is_zlib(body: bytes) -> bool:
    """Return whether a body begins as zlib's format does (RFC 1950)."""
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def inflate(body: bytes, window: int, limit: int) -> bytes:
    """Return the inflated body, of at most `limit` bytes; several gzip members are one body (RFC 1952, 2.2).

    Raises RequestError, also where it takes far longer than as many bytes do: a block of 23 bytes may hold nothing.
    """
    found, at, begun = bytearray(), 0, time.thread_time()
    for _ in range(MAX_MEMBERS):
        stream = zlib.decompressobj(window)
        while not stream.eof:
            if at == len(body):
                raise inflate_failed("compressed", "it breaks off before its end")
            check_time()
            if time.thread_time() - begun > INFLATE_SECONDS + INFLATE_SECONDS_A_BYTE * len(found):
                raise inflate_failed("compressed", "it takes too long for what it holds")
            piece = body[at : at + STEP]  # what is left of it is copied each time
            found += stream.decompress(piece, limit + 1 - len(found))
            if len(found) > limit:
                message = f"The body inflates to more than {limit:,} bytes, the most for its size. Send it in parts."
                raise RequestError(413, "body_too_large", message)
            at += len(piece) - len(stream.unused_data)
        at = after_zeros(body, at)
        if at == len(body):
            return bytes(found)
        if window < 16:
            break
    raise inflate_failed("compressed", "something stands after its end")


def after_zeros(body: bytes, at: int) -> int:
    """Return where the zeros end that stand at a place, if there are any; other threads run between pieces."""
    while body[at : at + 1] == b"\0" and (zeros := ZEROS.match(body, at, at + PIECE)):
        at = zeros.end()
    return at


def inflate_failed(coding: str, reason: str) -> RequestError:
    """Say why a body cannot be inflated."""
    return RequestError(400, "content_encoding_malformed", f"The {coding} body cannot be inflated: {reason}.")


MAX_BYTES = 32 * 2**20
MAX_BYTES_BEYOND_ASCII = 8 * 2**20
SURROGATE = re.compile(rb"\\u[dD][89abAB]")
"""Half of a letter beyond the first plane, written in ASCII."""
LARGE = 2**19
"""Bytes from which a document may be read in turn with others: shorter ones the compute thread reads, for all."""
FEW_VALUES = 20_000
"""Values up to which it may be, too: Python takes some 0.5 ms for a thousand of them."""
MAX_LISTS = 260_000
"""Lists and objects: those of 60 pictures of 64 x 64, or of 27 of 96 x 96, with a list for each pixel."""
MAX_QUOTES = 40_000
"""Around texts and names: 10,000 of each. A million names in one object take a second."""
MAX_ESCAPES = 1_500_000
"""Backslashes, which take up to 30 ns each: base64 has some for each line break, or one for each "/" or "+"."""
MAX_DIGITS = 100
"""Characters of a number: Python's time for a whole number grows with the square of its digits."""
MANY = 1_000
ONE_AT_A_TIME = threading.Lock()
"""Held while a document is read that is near a limit: several at once could keep all other threads for seconds."""
MAX_WAITING = threading.BoundedSemaphore(2)
"""Threads that may wait for it, under another server than ours: that would have none left for other requests ..."""
PATIENCE = 5.0
"""... and seconds that each of them waits."""
MAX_PAUSE = 1.0
"""Seconds. A document that takes longer must not keep the next one waiting twice as long."""
pause = [0.0]
"""Until when the next one waits: as long as the last one took, which the others have for themselves."""


class ThisThread(threading.local):
    """What holds for the thread that reads it."""

    deadline = math.inf
    """Of the request that it works on, on the monotonic clock."""
    may_wait = True
    """Whether it may wait until others' documents are read; if not, it leaves its document to the thread that may."""


this_thread = ThisThread()


def check_time() -> None:
    """Raise DeadlineError if the time of the request is over: what is left of the work would be for nobody."""
    if time.monotonic() > this_thread.deadline:
        raise DeadlineError


@contextlib.contextmanager
def until(deadline: float) -> Iterator[None]:
    """Have check_time() look at a deadline in this thread, on the monotonic clock, until the block ends."""
    this_thread.deadline = deadline
    try:
        yield
    finally:
        this_thread.deadline = math.inf


class NotHereError(Exception):
    """The document is for the thread that reads large ones; never leaves the server."""


@contextlib.contextmanager
def parsed(body: bytes, most: int, instead: str) -> Iterator[Any]:
    """Give the document; `instead` says how to send more than `most` values, or a bigger body.

    One of over FEW_VALUES, or near a limit, is read in turn with others, and worked on until the block ends.

    Raises NotHereError where this thread may not wait for that.

    While a document is read no other thread of the process runs, except at each number: see whole(). Whatever is
    within the limits takes some 0.1 s between two of them. Raises RequestError for what is over a limit, and ValueError
    or RecursionError for what is no JSON.
    """
    if len(body) > MAX_BYTES:
        raise too_big_json(body, MAX_BYTES, instead)
    lists, quotes, escapes = count(body, b"[") + count(body, b"{"), count(body, b'"'), count(body, b"\\")
    values = lists + count(body, b",")  # each value comes after one of these, or a key
    for found, limit, name in (
        (values, most, "values"),
        (lists, MAX_LISTS, "lists and objects"),
        (quotes, MAX_QUOTES, "quotation marks"),
        (escapes, MAX_ESCAPES, "backslashes"),
    ):
        if found > limit:
            raise RequestError(413, "json_too_many_values", f"The JSON has more than {limit:,} {name}. {instead}")
    if len(body) > MAX_BYTES_BEYOND_ASCII and is_beyond_ascii(body):
        raise too_big_json(body, MAX_BYTES_BEYOND_ASCII, f"It has letters beyond ASCII. {instead}")
    is_large = len(body) > MAX_BYTES // 4 or max(lists / MAX_LISTS, escapes / MAX_ESCAPES) > 0.1
    with in_turn() if values > FEW_VALUES or (len(body) > LARGE and is_large) else contextlib.nullcontext():
        # json.loads() of bytes decodes half surrogate pairs, too, each by a call: two seconds in which no thread runs
        text = body.decode(json.detect_encoding(body))
        yield json.loads(text, parse_int=whole, parse_float=fraction)


def is_beyond_ascii(body: bytes) -> bool:
    """Return whether a text of a document may take more than a byte a letter."""
    is_ascii = body.isascii() and json.detect_encoding(body).startswith("utf-8")
    return not is_ascii or SURROGATE.search(body) is not None


def too_big_json(body: bytes, limit: int, instead: str) -> RequestError:
    """Say how big a document may be."""
    message = f"JSON of {len(body):,} bytes is over the limit of {limit:,}. {instead}"
    return RequestError(413, "body_too_large", message)


def parse(body: bytes, most: int, instead: str) -> Any:
    """Return what parsed() gives."""
    with parsed(body, most, instead) as document:
        return document


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Hold ONE_AT_A_TIME, without garbage collection: it takes as long as reading, and a document has no garbage.

    Raises NotHereError, or QueueFullError where too many threads wait for it or it takes too long.
    """
    if not this_thread.may_wait:
        raise NotHereError
    wait_for_turn()
    try:
        sleep_pause()
        begun = time.monotonic()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            ended = time.monotonic()
            pause[0] = ended + min(ended - begun, MAX_PAUSE)
    finally:
        ONE_AT_A_TIME.release()


def sleep_pause() -> None:
    """Wait until the next document may be read."""
    time.sleep(max(0.0, pause[0] - time.monotonic()))


def wait_for_turn() -> None:
    """Acquire ONE_AT_A_TIME. Raises QueueFullError."""
    if ONE_AT_A_TIME.acquire(blocking=False):
        return
    if not MAX_WAITING.acquire(blocking=False):
        raise QueueFullError(1)
    try:
        if not ONE_AT_A_TIME.acquire(timeout=PATIENCE):
            raise QueueFullError(1)
    finally:
        MAX_WAITING.release()


def whole(text: str) -> int:
    """Return a whole number of a document; raises RequestError. Other threads get a turn: it is Python."""
    return int(short(text))


def fraction(text: str) -> float:
    """Return any other number of a document, as whole() does."""
    return float(short(text))


def short(text: str) -> str:
    """Return a number as it is written; raises RequestError if that is long."""
    if len(text) > MAX_DIGITS:
        message = f"A number of {len(text):,} characters is over the limit of {MAX_DIGITS}."
        raise RequestError(400, "json_malformed", message)
    return text


def count(body: bytes, sign: bytes) -> int:
    """Return body.count(sign), which looks at every byte, sixty times as fast where strings are long: find() leaps."""
    found, at = 0, body.find(sign)
    while at >= 0 and found < MANY:
        found += 1
        at = body.find(sign, at + 1)
    return found if at < 0 else found + body.count(sign, at)


MAX_HEAD = 4096
"""Characters before the comma of a data: URL: its parameters may hold a file's name."""
ADDRESS = re.compile(r"(https?|ftp|file|s3|gs|blob):", re.IGNORECASE)
"""As FILE_NAME matched with texts without blanks at their ends: it would go through a run of those again and again, for
seconds in which all threads wait."""
LEFT_OVER = re.compile(r"(?:data:[^,]{0,100},)?(undefined|null|None|NaN|\[object \w{1,40}\])")
HEXADECIMAL = re.compile("(ffd8ff|89504e47|47494638|52494646)[0-9a-f]{10}", re.IGNORECASE)
"""How JPEG, PNG, GIF and WebP begin: no picture's base64 does."""
FILE_NAME = re.compile(
    r"[^\n]{0,250}\.(jpe?g|jpe|jfif|png|webp|gif|bmp|tiff?|avif|hei[cf]|hif|p[bgnp]m|mpo)(\?\S{0,200})?",
    re.IGNORECASE,
)
BASE64_MARK = re.compile(r"(^|[;:])\s*base64\s*(;[^,]*)?,", re.IGNORECASE)
"""Ends what a data: URL says of its data; a file's name in it may hold commas. Searched for up to the last of these:
where none follows, each beginning would be read to the end."""
ALPHABET = (string.ascii_letters + string.digits + "+/").encode()
PIECE = 2**20
"""Letters that are looked through without a pause: other threads wait meanwhile."""
ESCAPES = {
    b"\\": ((b"\\n", b""), (b"\\r", b""), (b"\\/", b"/")),
    b"%": (
        *((b"%2B", b"+"), (b"%2b", b"+"), (b"%2F", b"/"), (b"%2f", b"/"), (b"%3D", b"="), (b"%3d", b"=")),
        *((b"%0A", b""), (b"%0a", b""), (b"%0D", b""), (b"%0d", b""), (b"%20", b" ")),
    ),
}
"""What stands for what, by what it begins with: line breaks that were escaped twice, and percent-encoding."""
URL_SAFE, BREAKS = bytes.maketrans(b"-_", b"+/"), b"\n\r\t"
MAX_PADDING = 8
"""Signs of equality at the end: two belong there."""
MAX_PERCENT = 2**18
"""Letters of a data: URL that is not in base64: some 5 ms."""
UNESCAPED = re.compile("%(?![0-9a-fA-F]{2})")
HOW_TO = "Send the bytes of the picture's file as base64."


class Base64Error(ValueError):
    """Not base64; the message says what it is instead, and what to send."""


def from_base64(value: Any) -> bytes:
    """Return the bytes that a JSON value stands for; raises Base64Error, or DeadlineError."""
    check_time()
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str):
        value = value["b64"]  # as TensorFlow Serving writes bytes in JSON
    if not isinstance(value, str):
        raise Base64Error(f"This is {kind_of(value)}, not a string of base64. {HOW_TO}")
    if left_over := LEFT_OVER.fullmatch(value):
        raise Base64Error(f"This is {left_over[1]!r}, what a program writes in place of a value it lacks. {HOW_TO}")
    if HEXADECIMAL.match(value):
        raise Base64Error(f"This is hexadecimal, not base64. {HOW_TO}")
    with contextlib.suppress(binascii.Error, ValueError):
        return decode_plain(value)
    return decode_text(value)  # it is not in the plain form


def decode_plain(letters: str | bytes) -> bytes:
    """Return base64.b64decode(letters, validate=True), but let other threads run each PIECE. Raises as that does."""
    found = bytearray()
    for at in range(0, len(letters), PIECE):
        check_time()
        found += base64.b64decode(letters[at : at + PIECE], validate=True)
    end = letters[-2:]
    if len(found) != len(letters) // 4 * 3 - (end.count("=") if isinstance(end, str) else end.count(b"=")):
        raise binascii.Error("Excess data after padding")
    return bytes(found)


def decode_text(text: str) -> bytes:
    """Return the bytes of a string that is not plain base64; raises Base64Error."""
    quoted = between_quotes(text)
    if quoted is not None and "\\x" in quoted[:64]:
        raise Base64Error("This is how Python prints bytes, not base64. Send base64.b64encode(data).decode().")
    text = text if quoted is None else quoted
    if ADDRESS.match(text.strip()):
        raise Base64Error(f"This is an address. The server fetches nothing. {HOW_TO}")
    mark = BASE64_MARK.search(text, 0, text.rfind(",", 0, MAX_HEAD) + 1)
    if mark:
        return decode_letters(text[mark.end() :])
    head, comma, _ = text[:MAX_HEAD].partition(",")
    if comma:
        return decode_percent(head, text[len(head) + 1 :])
    if head.lstrip().lower().startswith("data:"):
        raise Base64Error("This data: URL has no comma, after which its data begin.")
    if FILE_NAME.fullmatch(text.strip()):
        raise Base64Error(f"This is the name of a file. {HOW_TO}")
    return decode_letters(text)


def between_quotes(text: str) -> str | None:
    """Return what stands between quotes, as programs print a text or bytes; None if there are none around it."""
    plain = text.strip().removeprefix("b")
    is_quoted = len(plain) > 1 and plain[0] in ("'", '"') and plain[-1] == plain[0]
    return plain[1:-1] if is_quoted else None


def decode_percent(head: str, data: str) -> bytes:
    """Return the bytes of a data: URL that is not in base64 (RFC 2397). Raises Base64Error.

    They are read as quoted-printable, which is written alike and read in C: unquote_to_bytes() takes 0.5 us a percent
    sign and 60 bytes.
    """
    if not head.lstrip().lower().startswith("data:") or len(data) > MAX_PERCENT:
        raise Base64Error(f"The text after the comma is not marked as base64. {HOW_TO}")
    if not data.isascii():
        raise Base64Error(f"This data: URL has letters beyond ASCII behind its comma. {HOW_TO}")
    if UNESCAPED.search(data):
        raise Base64Error(f"A percent sign of this data: URL is not followed by two hexadecimal digits. {HOW_TO}")
    return binascii.a2b_qp(data.encode().replace(b"=", b"=3D").replace(b"%", b"="))


def decode_letters(text: str) -> bytes:
    """Return the bytes of base64 in either alphabet, perhaps wrapped or without padding."""
    pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    try:
        letters = b"".join([piece.encode("ascii").translate(URL_SAFE, BREAKS) for piece in pieces])
    except UnicodeEncodeError as error:
        raise not_base64(error.object[error.start]) from None
    if sum(letters.count(sign) for sign in (b"%", b" ", b"\\")) > MAX_ESCAPES:
        raise Base64Error(f"Over {MAX_ESCAPES:,} of its characters are blanks, percent signs or backslashes. {HOW_TO}")
    letters = with_plus_signs(unescaped(letters))
    letters = letters[:-MAX_PADDING] + letters[-MAX_PADDING:].rstrip(b"=")
    foreign = (letters[at : at + PIECE].translate(None, ALPHABET) for at in range(0, len(letters), PIECE))
    if wrong := next(filter(None, foreign), b""):
        raise not_base64(chr(wrong[0]))
    if len(letters) % 4 == 1:
        raise Base64Error(f"The base64 is cut off: {len(letters):,} characters cannot be whole bytes. Send all of it.")
    return decode_plain(letters + b"=" * (-len(letters) % 4))


def unescaped(letters: bytes) -> bytes:
    """Return base64 with what its ESCAPES stand for; other threads run between pieces, which end before an escape."""
    signs = [sign for sign in ESCAPES if sign in letters]
    if not signs:
        return letters
    found, at = bytearray(), 0
    while at < len(letters):
        end = at + PIECE
        cut = max(letters.rfind(sign, end - 2, end) for sign in signs)
        piece, at = letters[at : cut if cut > 0 else end], cut if cut > 0 else end
        for written, meant in itertools.chain.from_iterable(ESCAPES[sign] for sign in signs):
            piece = piece.replace(written, meant)
        found += piece
    return bytes(found)


def not_base64(character: str) -> Base64Error:
    """Say what is no letter of base64."""
    return Base64Error(f"The character {character!r} is not of base64 there. {HOW_TO}")


def with_plus_signs(text: bytes) -> bytes:
    """Return base64 without spaces: those that wrap it go, and those that a form made of "+" become that again."""
    spaces = text.count(b" ")
    if not spaces:
        return text
    wraps = b"+" in text
    if not wraps:
        line = text.find(b" ")
        wraps = (len(text) - spaces) % 4 == 0
        if wraps and len(text) % 4 == 0:  # the count of characters does not tell: lines are alike in length
            wraps = line > 0 and text[line :: line + 1].count(b" ") == spaces
    return text.replace(b" ", b"" if wraps else b"+")


def kind_of(value: Any) -> str:
    """Return in words what a JSON value is."""
    if isinstance(value, list):
        return "a list of numbers (pixels)" if is_pixels(value) else "a list"
    if isinstance(value, dict):
        return f"an object with {', '.join(json.dumps(str(key)[:40]) for key in list(value)[:3]) or 'nothing'}"
    if isinstance(value, bool):
        return "true or false"
    return "null" if value is None else "a number" if isinstance(value, int | float) else "of another kind"


def is_pixels(value: Any) -> bool:
    """Return whether nested lists end in a number."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float)

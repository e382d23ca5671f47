"""Well-formed requests to /v2 that lie about shapes, datatypes, sizes and parameters. Knows no server."""

import json
import random
import struct

NUMBERS = (
    0,
    1,
    2,
    -1,
    3,
    31,
    32,
    33,
    64,
    4096,
    4097,
    10**6,
    2**31,
    2**63,
    10**40,
    1.0,
    0.5,
    1e308,
    True,
    None,
    "1",
    [],
    {},
)
"""What is given where something else is expected."""
DATATYPES = ("UINT8", "BYTES", "FP32", "INT64", "BOOL", "uint8", "", 7, None, ["UINT8"])


def dishonest_shape(rng: random.Random) -> object:
    """Return a shape that is wrong in length, in kind, in sign or in what its numbers come to."""
    kind = rng.randrange(6)
    if kind == 0:
        return [1, 32, 32, 3]  # an honest one, now and then
    if kind == 1:
        return rng.choice((*NUMBERS, "1,32,32,3", [[1, 32, 32, 3]], {"0": 1}))
    if kind == 2:
        return [rng.choice((4096, 2**31, 2**62))] * rng.choice((1, 4, 5, 400, 20_000))
    if kind == 3:
        return [rng.choice((1, 32, [1], []))] * rng.choice((0, 1, 3, 4, 64))
    shape: list[object] = [rng.randint(1, 3), 32, 32, 3]
    shape[rng.randrange(4)] = rng.choice(NUMBERS)
    return shape


def dishonest_data(rng: random.Random) -> object:
    """Return what is no list of 3,072 numbers from 0 to 255."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice((*NUMBERS, "AAAA", ["AAAA"], [[]], [None], [{}], [[1], [1, 2]], ["x"] * 3072, [0.5] * 3072))
    if kind == 3:
        return [rng.randrange(-2, 300)] * rng.choice((0, 1, 3071, 3072, 3073))
    if kind == 4:
        return [rng.choice(NUMBERS)] * 3072
    if kind == 5:
        nested: object = 1
        for _ in range(rng.choice((2, 4, 33, 65, 500))):
            nested = [nested]
        return nested
    return [[[[7] * 3] * 32] * rng.choice((31, 32))]


def dishonest_inference(parts: list[bytes], rng: random.Random) -> tuple[bytes, bytes]:
    """Return the body of a well-formed request to /v2 that lies about its tensors, and more headers."""
    tensor = rng.choice((rng.randbytes(rng.choice((0, 1, 3071, 3072, 3073))), struct.pack("<I", 2**32 - 1) + b"x"))
    if rng.random() < 0.3:
        tensor = b"".join(struct.pack("<I", rng.choice((len(part), 0, 2**31, 2**32 - 1))) + part for part in parts)
    inputs: dict[str, object] = {
        "name": rng.choice(("images", "images", "files", "", 7, None, ["images"])),
        "datatype": rng.choice(DATATYPES) if rng.random() < 0.4 else rng.choice(("UINT8", "BYTES")),
        "shape": dishonest_shape(rng),
    }
    sizes = (*NUMBERS, len(tensor), len(tensor) + 1)
    if rng.random() < 0.5:
        inputs["data"] = dishonest_data(rng)
    if rng.random() < 0.6:
        inputs["parameters"] = rng.choice(({"binary_data_size": rng.choice(sizes)}, [], "x", None, 7))
    outputs = rng.choice(
        (
            [{"name": "logits", "parameters": rng.choice(({"binary_data": rng.choice(NUMBERS)}, [], 7, None))}],
            [{"name": rng.choice(("logits", "", 7, None, ["logits"], {}))}],
            [{"name": "category"}] * rng.choice((2, 5000)),
            [],
            *NUMBERS,
        )
    )
    if rng.random() < 0.2:  # the truth, so that the lies around it are met
        inputs = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [7] * 3072}
    document: dict[str, object] = {"inputs": [inputs] * rng.choice((1, 1, 1, 1, 0, 2)), "outputs": outputs}
    if rng.random() < 0.3:
        document["parameters"] = rng.choice(({"binary_data_output": rng.choice(NUMBERS)}, *NUMBERS))
    if rng.random() < 0.3:
        document["id"] = rng.choice((*NUMBERS, "x" * 5000, "\ud800", "\u0000"))
    text = json.dumps(document).encode()
    stated = rng.choice((len(text), len(text), len(text), len(text) - 1, len(text) + 1, 0, -1, 10**9, 10**40))
    return text + tensor, b"Inference-Header-Content-Length: %d\r\n" % stated

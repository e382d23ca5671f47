"""The size of frames coded as AV1, which need not be what the boxes of an AVIF say (AV1 specification, 5.5 and 5.9)."""

from typing import NamedTuple

SEQUENCE, FRAMES = 1, (3, 6, 7)
"""Units that say what all frames have in common, and those that begin with the header of a frame."""
MOST_BYTES = 512
"""Of a unit that are looked at."""
KEY, SWITCH = 0, 3
"""Kinds of frames."""
CHOSEN = 2
"""Each frame says it for itself."""


class Sequence(NamedTuple):
    """What the header of a sequence says of its frames."""

    pixels: int
    """Of a frame that says no size of its own, as that of a still picture with a short header never does."""
    largest: int = 0
    """What one with a size of its own may have, or 0: that is rare, and the size is not looked for."""
    time_bits: int = 0
    tools: int = 0
    """Whether frames have tools for drawings, or CHOSEN; and whether such ones say more then."""
    more: int = 0
    name_bits: int = 0


class Bits:
    """Numbers of any lengths in bits, one behind the other."""

    def __init__(self, data: memoryview) -> None:
        self.left = 8 * len(data[:MOST_BYTES])
        self.value = int.from_bytes(data[:MOST_BYTES], "big")

    def take(self, count: int = 1) -> int:
        """Return the next bits as a number; raises IndexError at the end."""
        self.left -= count
        if self.left < 0:
            raise IndexError
        return self.value >> self.left & (1 << count) - 1

    def exponential(self) -> int:
        """Return the next number whose length stands before it in zeros (Exp-Golomb); raises as take() does."""
        zeros = 0
        while not self.take():
            zeros += 1
            if zeros == 32:  # decoders differ
                raise IndexError
        return (1 << zeros) - 1 + self.take(zeros)


def sequence(data: memoryview) -> Sequence:
    """Read the header of a sequence; raises IndexError if it is cut off."""
    bits, time_bits = Bits(data), 0
    bits.take(4)
    still = bits.take()
    if still:
        bits.take(5)
    else:
        time_bits = _operating_points(bits)
    width, height = bits.take(4) + 1, bits.take(4) + 1
    pixels = (bits.take(width) + 1) * (bits.take(height) + 1)
    if still:
        return Sequence(pixels)
    name_bits = bits.take(4) + bits.take(3) + 3 if bits.take() else 0
    bits.take(7)
    bits.take(2 * bits.take())
    tools = CHOSEN if bits.take() else bits.take()
    return Sequence(pixels, 1 << width + height, time_bits, tools, bits.take(min(tools, 1)), name_bits)


def _operating_points(bits: Bits) -> int:
    """Pass over times and operating points, and return how many bits the time of a frame has."""
    time_bits = model = delay_bits = 0
    if bits.take():
        bits.take(64)
        regular = bits.take()
        zeros = 0
        while regular and not bits.take():
            zeros += 1
            if zeros == 32:  # decoders differ
                raise IndexError
        bits.take(zeros)
        model = bits.take()
        if model:
            delay_bits = bits.take(5) + 1
            bits.take(37)
            time_bits = (bits.take(5) + 1) * (1 - regular)
    delays = bits.take()
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        bits.take(bits.take(5) > 7)
        bits.take((2 * delay_bits + 1) * bits.take(model))
        bits.take(4 * bits.take(delays))
    return time_bits


def frame_pixels(data: memoryview, sequence: Sequence | None) -> int:
    """Return the pixels that a frame has at most, at least 1; raises IndexError if its header is cut off."""
    if sequence is None:
        raise IndexError
    bits = Bits(data)
    if not sequence.largest:
        return sequence.pixels
    if bits.take():
        return 1  # one that is there already
    kind, shown = bits.take(2), bits.take()
    bits.take(sequence.time_bits if shown else 1)
    bits.take(kind != SWITCH and not (kind == KEY and shown))
    bits.take()
    tools = bits.take() if sequence.tools == CHOSEN else sequence.tools
    bits.take(tools & sequence.more)
    bits.take(sequence.name_bits)
    return sequence.largest if kind == SWITCH or bits.take() else sequence.pixels

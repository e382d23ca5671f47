"""Sends three times as much as the server can do, on an open loop, and measures what is still answered.

    python benchmarks/serving/overload.py MODEL.onnx [--seconds 8] [--times 3]

First the peak: a closed loop with 32 connections. Then requests at fixed times, whatever the answers, over as many
connections as that takes. Both with the same generator, on the same cores as the server; its own work counts against
the server in the overload, as it sends three times as much.
"""

import argparse
import asyncio
import multiprocessing
import time
from collections import Counter
from pathlib import Path

from chaos import multipart
from harness import draw, memory, running


class Wire(asyncio.Protocol):
    """One connection: sends a request, reads the status and throws the rest of the answer away."""

    def __init__(self) -> None:
        self.buffer = b""
        self.answer: asyncio.Future[tuple[str, bool]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if found and self.answer is not None and not self.answer.done():
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if len(body) >= length:
                self.buffer = b""
                self.answer.set_result((head[9:12].decode(), b"retry-after" in head.lower()))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Tell who waits."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(("closed", False))


async def ask(port: int, request: bytes, idle: list[Wire], results: list[tuple[str, float]]) -> None:
    """Send one request on an idle connection or a new one."""
    loop = asyncio.get_running_loop()
    begun = time.monotonic()
    try:
        wire = idle.pop() if idle else (await loop.create_connection(Wire, "127.0.0.1", port))[1]
        wire.answer = loop.create_future()
        wire.transport.write(request)  # type: ignore[attr-defined]
        status, told = await asyncio.wait_for(wire.answer, 20)
    except (OSError, TimeoutError):
        results.append(("no answer", time.monotonic() - begun))
        return
    results.append((status if status != "503" or told else "503 without Retry-After", time.monotonic() - begun))
    if status != "closed":
        idle.append(wire)


async def closed_loop(port: int, request: bytes, connections: int, seconds: float) -> list[tuple[str, float]]:
    """Send the next request when the last is answered."""
    results: list[tuple[str, float]] = []
    until = time.monotonic() + seconds

    async def client() -> None:
        idle: list[Wire] = []
        while time.monotonic() < until:
            await ask(port, request, idle, results)

    await asyncio.gather(*[client() for _ in range(connections)])
    return results


async def open_loop(port: int, request: bytes, rate: float, seconds: float) -> list[tuple[str, float]]:
    """Send `rate` requests a second, whatever is answered."""
    results: list[tuple[str, float]] = []
    idle: list[Wire] = []
    tasks: set[asyncio.Task[None]] = set()
    started = time.monotonic()
    sent = 0
    while time.monotonic() < started + seconds:
        while sent < (time.monotonic() - started) * rate:
            task = asyncio.create_task(ask(port, request, idle, results))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return results


def in_process(kind: str, *arguments: object) -> list[tuple[str, float]]:
    """Run a loop in a process of its own, so that it does not share this one's lock."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (kind, arguments))


def run(kind: str, arguments: tuple[object, ...]) -> list[tuple[str, float]]:
    """Run one of the loops."""
    return asyncio.run({"closed": closed_loop, "open": open_loop}[kind](*arguments))  # type: ignore[arg-type]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--times", type=float, default=3.0)
    options = parser.parse_args()
    body = multipart(draw(Path("/tmp/pupila-overload.jpg")).read_bytes())  # noqa: S108
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    head += b"Content-Length: %d\r\n\r\n"
    request = head % len(body) + body
    with running("ours", options.model.resolve()) as (process, port):
        in_process("closed", port, request, 32, 2.0)
        peak = len(in_process("closed", port, request, 32, options.seconds)) / options.seconds
        before = memory(process.pid)
        results = in_process("open", port, request, options.times * peak, options.seconds)
        grown = memory(process.pid) - before
    counts = Counter(status for status, _ in results)
    good = sorted(spent for status, spent in results if status == "200")
    rate = counts["200"] / options.seconds
    p99 = 1000 * good[int(0.99 * len(good))] if good else float("nan")
    print(f"peak {peak:.0f}/s; offered {len(results) / options.seconds:.0f}/s: {dict(counts)}")
    print(f"goodput {rate:.0f}/s, {rate / peak:.2f} of the peak; p99 of the answered {p99:.0f} ms; {grown:+.0f} MiB")


if __name__ == "__main__":
    main()

"""Several processes that train one network as one: each computes a slice of every batch. Starts no process.

They are a process group of torch.distributed, which torchrun or Ray has started: gloo on CPUs, NCCL on CUDA. Gradients
are averaged by DistributedDataParallel (Li et al., "PyTorch Distributed", 2020). On GPUs batch norm takes its
statistics over the whole batch; on CPUs each worker takes those of its slice, and the first worker's are kept.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import FileStore, Store, rendezvous  # type: ignore[attr-defined] # only there
from torch.nn.parallel import DistributedDataParallel

from pupila._arguments import counted
from pupila.errors import PupilaError, TrainingError
from pupila.training.loop.device import pick_device
from pupila.training.loop.resnet import ResNet18

TIMEOUT = timedelta(hours=2)
"""Of a worker that waits for the others: the first may have to decode the whole data set."""
MEETING, LOOPBACK = "_PUPILA_MEETING_PLACE", "lo"
"""Variable that names the folder of meeting_place(), and the interface that no other machine reaches."""
SIOCGIFADDR = 0x8915
"""Linux's request for an interface's address (netdevice(7)); elsewhere it fails, and gloo is left to itself."""


@dataclass(frozen=True)
class Team:
    """This worker's place among those that train together. A team of one costs nothing and changes nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """The place on this machine."""

    @property
    def leads(self) -> bool:
        """True for the one worker that prints and writes files."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return which of `count` pictures are this worker's: a run of them, as long as the others' give or take 1."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def check(self, smallest_batch: int, validation: int) -> None:
        """Raise TrainingError if a worker would be left with too few pictures: batch norm needs two."""
        if self.size > 1 and min(smallest_batch // 2, validation) < self.size:
            raise TrainingError(
                f"{self.size} workers cannot share the smallest batch, of {counted(smallest_batch, 'picture')}, or the "
                f"{validation} to validate. Use fewer workers."
            )

    def synced(self, network: ResNet18) -> ResNet18:
        """On GPUs, make batch norm take its statistics over all workers' slices; torch cannot do that on CPUs."""
        if self.size == 1 or not torch.cuda.is_available():
            return network
        converted: ResNet18 = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted

    def wrapped(self, network: nn.Module) -> nn.Module:
        """Return what to call in training: its backward pass averages the gradients over the workers."""
        if self.size == 1:
            return network
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else None
        return DistributedDataParallel(network, device_ids=devices)

    def sums(self, *numbers: float) -> list[float]:
        """Return the sum of each number over the workers."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=pick_device())
        distributed.all_reduce(total)
        return [float(number) for number in total.cpu()]

    def firsts(self, number: float) -> float:
        """Return the first worker's number: clocks differ, and all must take the same steps."""
        return self.sums(number if self.leads else 0.0)[0]

    def gathered(self, rows: Tensor, total: int) -> Tensor:
        """Return [total, ...] out of the rows of every worker's part(total), on the CPU."""
        if self.size == 1:
            return rows
        most = -(-total // self.size)
        padded = rows.new_zeros((most, *rows.shape[1:]), device=pick_device())
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        places = [Team(rank, self.size).part(total) for rank in range(self.size)]
        return torch.cat([part[: place.stop - place.start] for part, place in zip(parts, places, strict=True)]).cpu()

    def agree(self, steps: int, identity: Mapping[str, Any]) -> None:
        """Raise TrainingError unless all workers are about to do the same run, from the same step on."""
        if self.size == 1:
            return
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        numbers = torch.tensor([steps, int(digest[:12], 16)], dtype=torch.float64, device=pick_device())
        both = torch.cat([numbers, -numbers])
        distributed.all_reduce(both, distributed.ReduceOp.MAX)
        largest, smallest = both.cpu()[:2], -both.cpu()[2:]
        if largest[0] != smallest[0]:
            raise TrainingError(
                "The workers found different checkpoints. Put --runs on a disk that all machines share."
            )
        if largest[1] != smallest[1]:
            raise TrainingError("The workers see different pictures or settings. Give all machines the same data.")

    @contextlib.contextmanager
    def first_on_the_machine(self) -> Iterator[None]:
        """Let one worker of each machine go first, so that the others find in the cache what it has made.

        What one worker raises there as PupilaError, all raise as TrainingError: the others would wait for it for ever.
        """
        if self.size == 1:
            yield
            return
        if self.local_rank > 0:
            distributed.barrier()
        reason = None
        try:
            yield
        except PupilaError as error:
            reason = str(error)
        if self.local_rank == 0:
            distributed.barrier()
        reasons: list[str | None] = [None] * self.size
        distributed.all_gather_object(reasons, reason)
        found = [one for one in reasons if one is not None]
        if found:
            elsewhere = " Other workers found it: all machines must have the same data under the same path."
            raise TrainingError(found[0] + (elsewhere if len(found) < self.size else ""))


ALONE = Team()


@contextlib.contextmanager
def joined() -> Iterator[Team]:
    """Join the process group that this process was started for, by torchrun or by Ray; a team of one if by neither."""
    if distributed.is_initialized():  # Ray has done it
        yield _team()
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield ALONE
    else:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store, rank, size = _meet()
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        try:
            yield _team()
        finally:
            distributed.destroy_process_group()


@contextlib.contextmanager
def meeting_place() -> Iterator[Path]:
    """Make a folder where the processes of this machine find each other, and tell them of it.

    By themselves torch's processes meet at a port of all addresses, which asks nobody for a password and unpickles what
    it is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        ours = {MEETING: folder, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        if LOOPBACK in (name for _, name in socket.if_nameindex()):
            ours["GLOO_SOCKET_IFNAME"] = LOOPBACK
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _meet() -> tuple[Store, int, int]:
    """Return where the processes leave each other their addresses, this one's rank and how many there are."""
    if folder := os.environ.get(MEETING):
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store: Store = FileStore(str(Path(folder, f"workers{_attempt()}")), size)
    else:
        meet_on_the_network_of(os.environ["MASTER_ADDR"])
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        store = PrefixStore(_attempt(), store)
    store.set_timeout(TIMEOUT)
    return store, rank, size


def meet_on_the_network_of(address: str) -> None:
    """Let gloo listen where this machine reaches `address`, another machine's or its own.

    By itself gloo listens where the machine's own name leads: on many that is 127.0.1.1, which no other can reach.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            if _address_of(name, probe) == own and not own.startswith("127."):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _address_of(interface: str, probe: socket.socket) -> str | None:
    """Return an interface's IPv4 address, None if it has none; `probe` is any socket."""
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()))
    except OSError:
        return None
    return socket.inet_ntoa(answer[20:24])


def restarted() -> bool:
    """Return True if torchrun has started this process again after a worker was lost: then the run is taken up."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _attempt() -> str:
    """Return the name of this start, under which the workers leave each other their addresses.

    torch 2.13 keeps one store over all starts, where the addresses of those that were lost still stand: who read them
    waited for them for ever. Agents on several machines count their starts differently, and cannot be told apart so.
    """
    several_machines = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    return "any" if several_machines else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _team() -> Team:
    return Team(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))

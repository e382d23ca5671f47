"""What the tests of deploy/ share: a Dockerfile carried out without a container engine, by Linux's own means.

A box is a mount namespace with a root folder of its own, in which the machine's own files stand in for the base image:
/usr and /etc are those of the machine, and /usr/local is the Python that runs the tests, as in Docker's python images.
Needs root, and a machine that allows namespaces.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
MACHINE = ("usr", "etc", "bin", "sbin", "lib", "lib64")
PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "https_proxy", "HTTPS_PROXY")
"""What a builder passes on to pip, where it is set: how to reach a package index from here."""


def why_no_box() -> str:
    """Return why a box cannot be had here; empty if it can."""
    if os.geteuid() != 0:
        return "carrying out the Dockerfile needs root, to change to another user and mount read-only"
    if any(shutil.which(tool) is None for tool in ("unshare", "nsenter", "chroot", "setpriv", "ip")):
        return "carrying out the Dockerfile needs util-linux and iproute2"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True)
    return "" if tried.returncode == 0 else "this machine allows no namespaces"


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (instruction, rest of the line) of a Dockerfile, lines that are continued joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def only(steps: Sequence[tuple[str, str]], name: str) -> str:
    """Return what stands after the one instruction of this name."""
    (rest,) = (rest for word, rest in steps if word == name)
    return rest


class Box:
    """A root folder, and a namespace in which to run programs under it. `network` alone keeps the machine's network."""

    def __init__(self, folder: Path, network: bool) -> None:
        self.root = folder
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/root",
            "LD_LIBRARY_PATH": "/usr/local/lib",  # the python images say this in /etc/ld.so.cache
        }
        self.user: list[str] = []
        space = ["unshare", "--mount", "--fork", "--kill-child", *([] if network else ["--net"])]
        self._holder = subprocess.Popen([*space, "sh", "-c", "echo ready; exec cat"], stdin=-1, stdout=-1)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        (self._inside,) = [str(child.pid) for child in psutil.Process(self._holder.pid).children()]
        if not network:
            self.outside("ip", "link", "set", "lo", "up")
        self._furnish()

    def _furnish(self) -> None:
        self.root.mkdir(parents=True)
        for name in MACHINE:
            here = Path("/", name)
            if here.is_symlink():
                (self.root / name).symlink_to(here.readlink())
            elif here.exists():
                self.mount(here, name)
        self.mount(self._python(), "usr/local")
        self.mount(Path("/dev"), "dev")
        for kind, name in (("proc", "proc"), ("tmpfs", "tmp")):
            (self.root / name).mkdir()
            self.outside("mount", "-t", kind, kind, str(self.root / name))

    def _python(self) -> Path:
        """Return the folder of the Python that runs the tests, or one with a `python` in it where that is Debian's."""
        if sys.base_prefix != "/usr":
            return Path(sys.base_prefix)
        folder = self.root.with_name(f"{self.root.name}-python")
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(f"/usr/bin/python3.{sys.version_info.minor}")
        return folder

    def outside(self, *command: str) -> None:
        """Run a command in the namespace, but on the machine's own root folder."""
        done = subprocess.run(
            ["nsenter", f"--target={self._inside}", "--mount", "--net", *command], capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()

    def mount(self, here: Path, there: str) -> None:
        """Show a folder of the machine in the box, to be read."""
        target = str(self.root / there)
        Path(target).mkdir(exist_ok=True, parents=True)
        self.outside("mount", "--bind", str(here), target)
        self.outside("mount", "-o", "remount,bind,ro", target)

    def freeze(self) -> None:
        """Make everything read-only but /tmp, as `read_only` with a tmpfs does."""
        self.outside("mount", "--rbind", str(self.root), str(self.root))
        self.outside("mount", "-o", "remount,bind,ro", str(self.root))

    def start(self, command: Sequence[str], folder: str = "/") -> "subprocess.Popen[str]":
        """Start a program in the box, as the box's user, with the box's environment alone."""
        enter = ["nsenter", f"--target={self._inside}", "--mount", "--net", "chroot", str(self.root)]
        here = ["sh", "-c", f"cd {shlex.quote(folder)} && exec {shlex.join(command)}"]
        return subprocess.Popen(
            [*enter, *self.user, "env", "-i", *(f"{k}={v}" for k, v in self.environment.items()), *here],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(
        self, command: Sequence[str], folder: str = "/", timeout: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program in the box to its end; standard error is with standard output."""
        with self.start(command, folder) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            finally:
                process.kill()
        return subprocess.CompletedProcess(command, process.returncode, output)

    def close(self) -> None:
        """End everything that runs in the box, and its mounts with it."""
        self._holder.kill()
        self._holder.communicate()


@contextlib.contextmanager
def box(folder: Path, network: bool = False) -> Iterator[Box]:
    """A box that is gone at the end of the block."""
    made = Box(folder, network)
    try:
        yield made
    finally:
        made.close()


def carry_out(dockerfile: Path, context: Path, folder: Path) -> "tuple[Path, list[tuple[str, str]]]":
    """Build the first stage; return its root folder, and the instructions of the last stage, which copies from it."""
    steps = instructions(dockerfile)
    second = [index for index, (word, _) in enumerate(steps) if word == "FROM"][1]
    with box(folder, network=True) as made:
        made.environment |= {name: os.environ[name] for name in PIP if name in os.environ}
        place = "/"
        for word, rest in steps[:second]:
            if word == "WORKDIR":
                place = rest
                (made.root / place.lstrip("/")).mkdir(parents=True)
            elif word == "COPY":
                *sources, target = rest.split()
                copy(context, sources, made.root / place.lstrip("/") / target)
            elif word == "RUN":
                done = made.run(["sh", "-c", f"EXTRAS=; {rest}"], place)
                assert done.returncode == 0, done.stdout
            else:
                assert word in ("ARG", "FROM"), word
    return folder, steps[second:]


def copy(context: Path, sources: Sequence[str], target: Path) -> None:
    """Do as COPY does with a folder or several files."""
    for source in sources:
        if (context / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(context / source, target, ignore=ignored)
        else:
            shutil.copy(context / source, target)


def settle(made: Box, steps: Sequence[tuple[str, str]], built: Path) -> tuple[list[str], list[str]]:
    """Carry out the last stage in a box; return its command and its health check."""
    for word, rest in steps:
        if word == "COPY":
            origin, source, target = rest.split()
            assert origin == "--from=build"
            (made.root / target.lstrip("/")).parent.mkdir(exist_ok=True, parents=True)
            (built / source.lstrip("/")).rename(made.root / target.lstrip("/"))
        elif word == "ENV":
            made.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
    user, group = only(steps, "USER").split(":")
    rights = ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    made.user = ["setpriv", f"--reuid={user}", f"--regid={group}", *rights]
    check = json.loads(only(steps, "HEALTHCHECK").partition("CMD ")[2])
    return json.loads(only(steps, "ENTRYPOINT")) + json.loads(only(steps, "CMD")), check

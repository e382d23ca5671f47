"""The listening socket: TCP, or a Unix socket for a proxy on the same machine."""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from pupila.errors import SettingsError
from pupila.server.addresses import UNIX
from pupila.server.settings import Settings

BACKLOG = 1024
OTHERS = 0o117
"""Permissions that a Unix socket does not have: it is for its owner and group (0660)."""


def bind(settings: Settings) -> socket.socket:
    """Return a listening socket; raises SettingsError with the fix if the address cannot be had."""
    if settings.host.startswith(UNIX):
        return bind_unix(Path(settings.host.removeprefix(UNIX)))
    host, port = settings.host, settings.port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fix = f"Stop the program that uses it, or choose another port: --port {port + 1}"
            raise SettingsError(f"Port {port} is in use. {fix}") from error
        raise SettingsError(f"Cannot listen on {host} port {port} ({error.strerror}). Choose another.") from error
    return listener


def bind_unix(path: Path) -> socket.socket:
    """Return a listening Unix socket; one that a server has left behind is replaced."""
    remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(OTHERS)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:  # without an errno if the path is too long
        listener.close()
        raise SettingsError(f"{path}: cannot listen there ({error.strerror or error}). Choose another path.") from error
    finally:
        os.umask(before)
    return listener


def remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; raises SettingsError for one in use, and for any other file."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"{path}: is there already, and is no socket. Choose another path for --host unix:")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(1)
            answer = asking.connect_ex(str(path))
        if answer == errno.ECONNREFUSED:
            path.unlink()
        else:
            raise SettingsError(f"{path}: another server listens there. Stop it, or choose another path.")


def url_of(listener: socket.socket, scheme: str) -> str:
    """Return the address to ask, with the port that was chosen if 0 was given."""
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def example(url: str) -> str:
    """Return a command that asks the server."""
    if url.startswith(UNIX):
        return f"curl --unix-socket {url.removeprefix(UNIX)} -F file=@photo.jpg http://localhost/predict"
    return f"curl -F file=@photo.jpg {url}/predict"

"""Addresses: where to listen, origins of pages (CORS), and trusted proxies (X-Forwarded-For, Forwarded of RFC 7239).

A wrong one in the settings is named with its fix. What a proxy says of its client is decided when a request's head has
arrived: the access log, limits by address and links use the outcome. Of any other peer these headers are ignored, as
anybody can write them. The client is the last address of the list that is no trusted proxy's: what stands before it was
written by the client. Where both kinds of header are there, X-Forwarded-For counts: most proxies write that, and pass a
client's own `Forwarded` on. The prefix is for links only: if it were taken away from the path here, a client could get
round a proxy's rules for paths.
"""

import contextlib
import errno
import functools
import ipaddress
import os
import re
import shlex
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pupila.errors import SettingsError
from pupila.server.transport.parser import Head

if TYPE_CHECKING:
    from pupila.server.settings import Settings

UNIX = "unix:"
"""Begins the path of a Unix socket; alone, the address of a peer at one."""
HOST = re.compile(r"(\w+://)?(?P<host>\[[^\]]*\]|[^:/\[\]]*)(:(?P<port>\d+)?[^:]*|/.*)?")
"""More than an address, such as a URL; in what is one, `host` is all of it. A bare IPv6 address does not match."""
ONE_SLASH = re.compile(r"^(https?):/(?!/)", re.IGNORECASE)
LOCAL = re.compile(r"localhost(:|$)|\d+\.\d+\.\d+\.\d+(:|$)|\[")
"""Hosts whose pages come by http rather than https."""
DEFAULT_PORTS = {"http": 80, "https": 443}


def check_host(host: str) -> None:
    """Raise SettingsError for what is no address to listen on, with the options to give instead."""
    parts = HOST.fullmatch(host)
    if host.startswith(UNIX):
        path = host.removeprefix(UNIX)
        if path and not path.startswith("//"):
            return
        fix = f"{UNIX}/{path.lstrip('/') or 'run/pupila.sock'}"
    elif host.startswith(("/", "./", "~/")):
        fix = f"{UNIX}{Path(host).expanduser()}"
    elif parts is None or host == parts["host"].strip("[]* ") != "":
        return
    else:
        fix = parts["host"].strip("[]* ") or ("0.0.0.0" if host.strip() else "127.0.0.1")  # noqa: S104
        fix += f" --port {parts['port']}" if parts["port"] else ""
    raise SettingsError(f"host = {host!r} is not an address alone. Give --host {fix}")


def origin_of(text: str) -> str:
    """Return an origin as browsers send it: scheme://host[:port]; raises SettingsError, with the right spelling."""
    if text == "*":
        return text
    spelled = ONE_SLASH.sub(r"\1://", text.strip())
    if "://" not in spelled:
        spelled = f"{'http' if LOCAL.match(spelled) else 'https'}://{spelled}"
    try:
        parts = urlsplit(spelled)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:  # also idna's
        parts, host, port = urlsplit(""), "", None
    fix = "one such as https://example.org, or * for all, and the option once for each"
    if host and text != "null" and not set("*, ") & set(host) and re.fullmatch(r"[a-z][a-z0-9+.-]*", parts.scheme):
        named = f"[{host}]" if ":" in host else host
        port_named = f":{port}" if port is not None and port != DEFAULT_PORTS.get(parts.scheme) else ""
        fix = f"{parts.scheme}://{named}{port_named}"
        if "://" in text and not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc):
            return fix
    raise SettingsError(f"cors_origins: {text!r} is no origin: that is scheme://host[:port]. Give {fix}")


BACKLOG = 1024
OTHERS = 0o117
"""Permissions that a Unix socket does not have: it is for its owner and group (0660)."""


def bind(settings: "Settings") -> socket.socket:
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
        return f"curl --unix-socket {shlex.quote(url.removeprefix(UNIX))} -F file=@photo.jpg http://localhost/predict"
    return f"curl -F file=@photo.jpg {url}/predict"


MAX_HOPS, MAX_HOPS_LETTERS = 20, 2_000
PREFIX = re.compile(r"(/[A-Za-z0-9._~%-]+){1,10}")
FORWARDED_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
PAIR = re.compile(r'(for|proto|host)\s*=\s*("[^"]*"|[^;,"\s]+)', re.IGNORECASE)

EVERYBODY = "*"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The proxies that are named by --forwarded-allow."""

    def __init__(self, named: Sequence[str]) -> None:
        """Raises SettingsError for what is no address, network, `unix:` or `*`."""
        self._all = EVERYBODY in named
        self._unix = UNIX in named
        self._networks = [network_of(name) for name in named if name not in (EVERYBODY, UNIX)]
        self.names = functools.lru_cache(4096)(self._names)
        """Whether this peer is a named proxy, and not just anybody: limits by address go by no other's word."""

    def trusts(self, address: str) -> bool:
        """Return whether what this peer says of its client is believed."""
        return self._all or self.names(address)

    def _names(self, address: str) -> bool:
        if address == UNIX:
            return self._unix
        found = parsed(address) if self._networks else None
        return found is not None and any(found in network for network in self._networks)

    def apply(self, head: Head, peer: str) -> str:
        """Return the client's address, and correct the head by what a trusted proxy says."""
        if not self.trusts(peer):
            return peer
        headers = head.headers
        hops, protocol, host = read_forwarded(headers)
        if protocol in ("http", "https"):
            head.scheme = protocol
        if FORWARDED_HOST.fullmatch(host):
            headers["HTTP_HOST"] = host
        prefix = headers.get("HTTP_X_FORWARDED_PREFIX", "").strip().rstrip("/")
        if PREFIX.fullmatch(prefix):
            head.prefix = unquote(prefix, "latin-1")  # each byte one character, as WSGI wants it
        return self.client(hops, peer)

    def client(self, hops: Sequence[str], peer: str) -> str:
        """Return the last address that is no trusted proxy's; the first one, if all are.

        Behind a named proxy only named ones count, also where everybody is believed: limits by address go by it.
        """
        client = peer
        trusts = self.names if self.names(peer) else self.trusts
        for hop in reversed(hops):
            if not trusts(client):
                break
            address = parsed(hop)
            if address is None:
                break
            client = str(address)
        return client


NOBODY = TrustedProxies(())


def read_forwarded(headers: Mapping[str, str]) -> tuple[list[str], str, str]:
    """Return the addresses from the client's to the last proxy's, the protocol and the host that were asked for."""
    if "HTTP_X_FORWARDED_FOR" in headers or "HTTP_FORWARDED" not in headers:
        hops = last_hops(headers.get("HTTP_X_FORWARDED_FOR", ""))
        protocol, host = (headers.get(f"HTTP_X_FORWARDED_{name}", "") for name in ("PROTO", "HOST"))
        return hops, protocol.rpartition(",")[2].strip().lower(), host.rpartition(",")[2].strip()
    elements = last_hops(headers["HTTP_FORWARDED"])
    pairs = [{key.lower(): value.strip('"') for key, value in PAIR.findall(element)} for element in elements]
    return [pair.get("for", "") for pair in pairs], pairs[-1].get("proto", "").lower(), pairs[-1].get("host", "")


def last_hops(text: str) -> list[str]:
    """Return the last elements of a list, as many as are looked at: its beginning is what a client writes."""
    return text[-MAX_HOPS_LETTERS:].rsplit(",", MAX_HOPS)[-MAX_HOPS:]


def parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address that may have a port, brackets, or be IPv4 written in IPv6; None if it is not one."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@functools.lru_cache(4096)
def network_part(address: str) -> str:
    """Return what one client cannot choose of its address: of IPv6 the /64, of which it has all, else the address."""
    found = parsed(address) if ":" in address else None
    if not isinstance(found, ipaddress.IPv6Address):
        return address if found is None else str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def network_of(name: str) -> Network:
    """Return the network that a setting names; raises SettingsError."""
    try:
        return ipaddress.ip_network(name.strip(), strict=False)
    except ValueError as error:
        fix = "Give a proxy's address such as 10.0.0.7, a network such as 10.0.0.0/8, unix: for a Unix socket, or *."
        raise SettingsError(f"forwarded_allow = {name!r} is no address. {fix}") from error

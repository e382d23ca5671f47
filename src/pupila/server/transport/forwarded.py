"""X-Forwarded-For, -Proto, -Host, -Prefix and Forwarded (RFC 7239): who asked, as a trusted proxy says it.

Decided at one place, when a request's head has arrived: the access log, limits by address and links use the outcome.
Of any other peer these headers are ignored, as anybody can write them. The client is the last address of the list that
is no trusted proxy's: what stands before it was written by the client. Where both kinds of header are there,
X-Forwarded-For counts: most proxies write that, and pass a client's own `Forwarded` on. The prefix is for links only:
if it were taken away from the path here, a client could get round a proxy's rules for paths.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from pupila.errors import SettingsError
from pupila.server.transport.parser import Head

UNIX = "unix:"
"""The address of a peer at a Unix socket."""
MAX_HOPS = 20
PREFIX = re.compile(r"(/[A-Za-z0-9._~%-]+){1,10}")
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
PAIR = re.compile(r'\s*(for|proto|host)\s*=\s*("[^"]*"|[^;,"\s]+)', re.IGNORECASE)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The proxies that are named by --forwarded-allow."""

    def __init__(self, named: Sequence[str]) -> None:
        """Raises SettingsError for what is no address, network, `unix:` or `*`."""
        self._all = "*" in named
        self._unix = UNIX in named
        self._networks = [network_of(name) for name in named if name not in ("*", UNIX)]

    def trusts(self, address: str) -> bool:
        """Return whether what this peer says of its client is believed."""
        if self._all or address == UNIX:
            return self._all or self._unix
        if not self._networks:
            return False
        found = parsed(address)
        return found is not None and any(found in network for network in self._networks)

    def apply(self, head: Head, peer: str) -> str:
        """Return the client's address, and correct the head by what a trusted proxy says."""
        if not self.trusts(peer):
            return peer
        headers = head.headers
        hops, protocol, host = read(headers)
        if protocol in ("http", "https"):
            head.scheme = protocol
        if HOST.fullmatch(host):
            headers["HTTP_HOST"] = host
        prefix = headers.get("HTTP_X_FORWARDED_PREFIX", "").strip().rstrip("/")
        if PREFIX.fullmatch(prefix):
            head.prefix = unquote(prefix)
        return self.client(hops, peer)

    def client(self, hops: Sequence[str], peer: str) -> str:
        """Return the last address that is no trusted proxy's; the first one, if all are."""
        client = peer
        for hop in reversed(hops[-MAX_HOPS:]):
            if not self.trusts(client):
                break
            address = parsed(hop)
            if address is None:
                break
            client = str(address)
        return client


NOBODY = TrustedProxies(())


def read(headers: Mapping[str, str]) -> tuple[list[str], str, str]:
    """Return the addresses from the client's to the last proxy's, the protocol and the host that were asked for."""
    if "HTTP_X_FORWARDED_FOR" in headers or "HTTP_FORWARDED" not in headers:
        hops = headers.get("HTTP_X_FORWARDED_FOR", "").split(",")
        protocol, host = (headers.get(f"HTTP_X_FORWARDED_{name}", "") for name in ("PROTO", "HOST"))
        return hops, protocol.rpartition(",")[2].strip().lower(), host.rpartition(",")[2].strip()
    elements = headers["HTTP_FORWARDED"].split(",")
    pairs = [{key.lower(): value.strip('"') for key, value in PAIR.findall(element)} for element in elements]
    return [pair.get("for", "") for pair in pairs], pairs[-1].get("proto", "").lower(), pairs[-1].get("host", "")


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


def network_of(name: str) -> Network:
    """Return the network that a setting names; raises SettingsError."""
    try:
        return ipaddress.ip_network(name.strip(), strict=False)
    except ValueError as error:
        fix = "Give a proxy's address such as 10.0.0.7, a network such as 10.0.0.0/8, unix: for a Unix socket, or *."
        raise SettingsError(f"forwarded_allow = {name!r} is no address. {fix}") from error

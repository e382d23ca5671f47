"""Addresses that settings name: where to listen, and the origins of pages (CORS). A wrong one is named with its fix."""

import re
from urllib.parse import urlsplit

from pupila.errors import SettingsError

UNIX = "unix:"
"""Begins the path of a Unix socket."""
HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(:(?P<port>\d+))?")
DEFAULT_PORTS = {"http": 80, "https": 443}


def check_host(host: str) -> None:
    """Raise SettingsError for what is no address to listen on, with the options to give instead."""
    if host.startswith(UNIX):
        path = host.removeprefix(UNIX)
        if not path or path.startswith("//"):
            raise SettingsError(f"host = {host!r} names no socket. Give --host unix:{path[2:] or '/run/pupila.sock'}")
        return
    if "://" in host:
        try:
            parts = urlsplit(host)
            raise address_only(host, parts.hostname or "127.0.0.1", parts.port)
        except ValueError:
            raise address_only(host, "127.0.0.1", None) from None
    if host.startswith(("/", "./")):
        raise SettingsError(f"host = {host!r} is a path. For a Unix socket give --host {UNIX}{host}")
    if host == "*":
        raise SettingsError("host = '*' is no address. Give --host 0.0.0.0 for all of this machine.")
    if not host.strip():
        raise SettingsError("host is empty. Give an address such as --host 127.0.0.1")
    found = HOST_AND_PORT.fullmatch(host)
    if found and (found["port"] or host.startswith("[")):
        raise address_only(host, found["host"].strip("[]") or "0.0.0.0", found["port"])  # noqa: S104


def address_only(host: str, address: str, port: str | int | None) -> SettingsError:
    """Say that an address has a part too many, and how to give it."""
    fix = f"--host {address}" + (f" --port {port}" if port else "")
    return SettingsError(f"host = {host!r} is more than an address. Give {fix}")


def origin_of(text: str) -> str:
    """Return an origin as browsers send it: scheme://host[:port]; raises SettingsError, with the right spelling."""
    if text == "*":
        return text
    spelled = text.strip() if "://" in text else f"https://{text.strip()}"
    try:
        parts = urlsplit(spelled)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:  # also idna's
        host, port = "", None
    parts_too_many = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc if host else ""
    if not host or text == "null" or "*" in host or " " in host or not re.fullmatch(r"[a-z][a-z0-9+.-]*", parts.scheme):
        raise SettingsError(f"cors_origins: {text!r} is no origin. Give one such as https://example.org, or * for all.")
    named = f"[{host}]" if ":" in host else host
    port_named = f":{port}" if port is not None and port != DEFAULT_PORTS.get(parts.scheme) else ""
    origin = f"{parts.scheme}://{named}{port_named}"
    if parts_too_many or "://" not in text:
        raise SettingsError(f"cors_origins: {text!r} is no origin: that is scheme://host[:port]. Give {origin}")
    return origin

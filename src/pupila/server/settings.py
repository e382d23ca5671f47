"""Every choice a person can make about the server, checked once. Reads no environment and no file."""

from dataclasses import dataclass, fields
from pathlib import Path

from pupila.errors import SettingsError
from pupila.images import ImageLimits
from pupila.server.addresses import TrustedProxies, check_host, origin_of
from pupila.server.api.auth import ApiKey

LOG_LEVELS = ("debug", "info", "warning", "error")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """How to serve. Raises SettingsError for a value out of range."""

    host: str = "127.0.0.1"
    """Address to listen on, or unix:PATH for a Unix socket; the default can be reached from this machine only."""
    port: int = 3000
    """Port to listen on; 0 takes a free one, which is printed."""
    workers: int = 0
    """Worker processes; 0 means one per CPU that this process may use."""
    request_timeout: float = 10.0
    """Seconds from a request's first byte to its answer: upload, decoding, waiting and computation together."""
    keepalive_timeout: float = 60.0
    """Seconds that a connection may stay open without a request."""
    graceful_timeout: float = 30.0
    """Seconds that accepted requests have to finish after SIGTERM."""
    max_connections: int = 1024
    """Open connections a worker; further ones wait in the kernel's queue."""
    max_waiting: int = 256
    """Pictures that may wait for their computation in one worker; further requests get 503 with Retry-After."""
    max_buffered_bytes: int = 256 * MEBIBYTE
    """Bodies of all requests in one worker together."""
    max_parts: int = 128
    """Pictures in one request."""
    max_part_bytes: int = 20 * MEBIBYTE
    """Bytes of one picture."""
    max_body_bytes: int = 64 * MEBIBYTE
    """Bytes of one request."""
    max_pixels: int = 50_000_000
    """Width times height of one picture, checked on its header."""

    tls_certificate: Path | None = None
    """Certificate (PEM, with its chain) to speak TLS with: https://. It is read again when it is renewed."""
    tls_key: Path | None = None
    """Its private key (PEM, without a password); without this option it is in the certificate's file."""
    api_keys: tuple[ApiKey, ...] = ()
    """Who may ask; none means everybody. See `auth.read_keys`."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser, as https://example.org; * for all."""
    forwarded_allow: tuple[str, ...] = ()
    """Proxies whose X-Forwarded-For, -Proto, -Host and -Prefix are believed: addresses, networks, unix:, or *."""
    access_log: Path | None = None
    """File that gets one line of JSON for every answer; - is standard output."""
    log_level: str = "warning"
    """Least severe of the server's own messages to print: debug, info, warning or error."""
    traces: str | None = None
    """URL of a collector to send OpenTelemetry traces to, as http://127.0.0.1:4318; OTEL_* variables work, too."""
    feedback_dir: Path | None = None
    """Folder in which the pictures that /predict answers are kept, to be corrected; none keeps nothing."""
    feedback_max_bytes: int = 1024 * MEBIBYTE
    """Bytes in that folder; beyond, the oldest pictures are deleted, those that nobody has corrected first."""

    def __post_init__(self) -> None:
        low = {"port": 0, "workers": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < low.get(field.name, 0.001):
                floor = "0 or more" if field.name in low else "a value above zero"
                raise SettingsError(f"{field.name} = {value} is too low. Give {floor}.")
        check_host(self.host)
        if self.tls_key is not None and self.tls_certificate is None:
            raise SettingsError("tls_key needs a certificate. Give --tls-certificate, too.")
        TrustedProxies(self.forwarded_allow)
        object.__setattr__(self, "cors_origins", tuple(origin_of(text) for text in self.cors_origins))
        if self.log_level not in LOG_LEVELS:
            raise SettingsError(f"log_level = {self.log_level!r} is none of {', '.join(LOG_LEVELS)}.")
        if self.port > 65535:
            raise SettingsError(f"port = {self.port} is not a port. Give one from 0 to 65535.")

    @property
    def image_limits(self) -> ImageLimits:
        """What one picture may cost."""
        return ImageLimits(max_bytes=self.max_part_bytes, max_pixels=self.max_pixels)

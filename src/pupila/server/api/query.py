"""Query parameters of /predict, which the body may give too. A typo is answered with the right name, not ignored."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from pupila._names import did_you_mean
from pupila.server.api.errors import RequestError

ALLOWED: Mapping[str, str] = {
    "top": "a whole number from 1",
    "on_error": "'partial' or 'fail'",
    "explain": "0 or 1",
}
NO_FIELDS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Query:
    """How /predict is to answer."""

    top: int | None = None
    """Number of classes to list; None lists none but the best."""
    explain: bool = False
    partial: bool = False
    """Answer the good pictures even if others are bad."""

    @classmethod
    def parse(cls, text: str, fields: Mapping[str, str] = NO_FIELDS) -> "Query":
        """Read a query string, and what the body gives beside it; raises RequestError for an unknown name or value."""
        if not text and not fields:
            return DEFAULT
        given = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=20) if text.count("&") < 20 else {"&": ""})
        for name in given.keys() - ALLOWED.keys():
            hint = did_you_mean(name, ALLOWED, f"Use {', '.join(map(repr, ALLOWED))}.", cutoff=0.5)
            raise RequestError(400, "query_invalid", f"Unknown query parameter {name[:40]!r}. {hint}")
        given = {**fields, **given}
        top = given.get("top")
        if top is not None and not (top.isascii() and top.isdigit() and len(top) <= 5 and int(top) > 0):
            raise bad_value("top", top)
        return cls(
            None if top is None else int(top),
            choose("explain", given.get("explain", "0"), {"0": False, "1": True}),
            choose("on_error", given.get("on_error", "fail"), {"fail": False, "partial": True}),
        )


DEFAULT = Query()


def choose(name: str, value: str, meanings: Mapping[str, bool]) -> bool:
    """Return what the value means; raises RequestError."""
    if value not in meanings:
        raise bad_value(name, value)
    return meanings[value]


def bad_value(name: str, value: str) -> RequestError:
    """Say which value a parameter may have."""
    return RequestError(400, "query_invalid", f"{name}={value[:40]!r} cannot be used. Give {ALLOWED[name]}.")

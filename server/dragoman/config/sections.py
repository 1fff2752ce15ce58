"""Settings that are tables of their own in dragoman.toml, and the rules that values of settings keep."""

import re
from dataclasses import replace
from decimal import Decimal
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dragoman import zones
from dragoman.quotas import Quotas

Amount: TypeAlias = Annotated[Decimal, Field(ge=0, max_digits=24, decimal_places=9)]
"""Of money, in the reporting currency."""


class BudgetSettings(BaseModel):
    """What may be spent in a day or a month: in dragoman.toml a table `[[budgets]]`.

    It is for a principal, an agent, or a principal's runs of an agent. A name with `*` or `?` gives each principal (agent)
    that it fits a budget of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    principal: str = ""
    """Whose it is; without one it is the agent's, whoever runs it."""
    agent: str = ""
    """What it is for; without one it is the principal's, whatever is run."""
    period: Literal["day", "month"]
    """Over what it is summed up."""
    amount: Amount
    """What may be spent in the period, in the reporting currency."""
    time_zone: str | None = None
    """Whose days and months are meant; without one `budget_time_zone`."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None:
            zones.zone(value)
        return value

    @model_validator(mode="after")
    def _for_somebody(self) -> Self:
        if not self.principal and not self.agent:
            raise ValueError(
                'a budget is for a principal, an agent, or both; principal = "*" is for each by itself'
            )
        return self


class RateSettings(BaseModel):
    """How much somebody may do at once, and how often; what is not said is for the next wider level (docs/limits.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_runs: Annotated[int, Field(ge=1)] | None = None
    """Concurrent runs, those that wait for their turn included."""
    max_streams: Annotated[int, Field(ge=1)] | None = None
    """Open streams."""
    request_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Calls a second, lastingly; 0: any number."""
    request_burst: Annotated[int, Field(ge=1)] | None = None
    """Calls at once, after a rest; without it what two seconds bring, at least one."""

    def quotas(self) -> Quotas:
        """The figures."""
        return Quotas(self.max_runs, self.max_streams, self.request_rate, self.request_burst)


class QuotaSettings(RateSettings):
    """What credentials of a kind may do: `quotas = { max_runs = 5, budget_day = "50" }` beside whose they are."""

    budget_day: Amount | None = None
    """What may be spent in a day by runs that they start, in the reporting currency."""
    budget_month: Amount | None = None
    """Likewise in a month."""

    def quotas(self) -> Quotas:
        """The figures."""
        return replace(super().quotas(), budget_day=self.budget_day, budget_month=self.budget_month)


class PrincipalQuotas(RateSettings):
    """How much a principal may do: in dragoman.toml a table `[[quotas]]`. The first that fits a principal counts."""

    principal: Annotated[str, Field(min_length=1, max_length=128)]
    """Whose they are; a name with `*` or `?` is for each principal that it fits, by itself."""


class CertificateGrant(BaseModel):
    """Who a client with a certificate is, and what it may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: Annotated[str, Field(min_length=1, max_length=512)]
    """The certificate's name, or a pattern: a URI (`spiffe://mesh/ns/*/sa/billing`) or DNS name of its subjectAltName.

    `*` stands for one or more characters between two slashes (in DNS names: dots)."""
    principal: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
    """Who that is."""
    scopes: tuple[Literal["read", "run", "admin"], ...] = ("run",)
    """What it may do."""
    agents: tuple[str, ...] = ("*",)
    """Patterns of the agents that it may use."""
    acts_for_users: bool = False
    """Whether it may name the user for whom it acts."""
    quotas: QuotaSettings = QuotaSettings()
    """How much it may do."""

    @field_validator("identity")
    @classmethod
    def _only_stars(cls, value: str) -> str:
        if "**" in value or re.search(r"[?\[\]\s]", value):
            raise ValueError(
                "of special characters an identity has * alone, for what is between two / (or dots)"
            )
        scheme, found, _ = value.partition("://")
        if (found and "*" in scheme) or (not found and "/" in value):
            raise ValueError("an identity is a DNS name or a URI with its scheme, or a pattern of one")
        return value


_HOST = re.compile(
    r"(?P<host>\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[(?P<ip>[0-9a-f:.]+)\])(?::(?P<port>\d{1,5}))?",
    re.IGNORECASE,
)


def check_host(text: str, *, wildcards: bool) -> None:
    """Raises ValueError for what is no pattern of hosts."""
    found = _HOST.fullmatch(text)
    if found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
        raise ValueError(
            f"{text!r} is not a host such as images.example.com, *.example.com or files.example.com:8443"
        )
    if found["ip"]:
        IPv6Address(found["ip"])
    if "*" in text and not wildcards:
        raise ValueError(f"{text!r}: a host that may have a private address is named in full")


def is_loopback(host: str) -> bool:
    """Whether it is an address of this machine alone; false for names."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def headers(text: str) -> dict[str, str]:
    """Of `name=value,name=value`. Raises ValueError, which does not quote the values."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not equals or re.fullmatch(r"[a-z0-9_.-]+", name) is None:
            raise ValueError("must be of the form name=value,name=value")
        found[name] = value.strip()
    return found

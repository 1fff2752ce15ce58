"""Settings of bearer tokens: in dragoman.toml tables `[[tokens]]`, one for each issuer."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dragoman.config.sections import QuotaSettings

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
ScopeName = Literal["read", "run", "admin"]

_WAYS = ("jwks_url", "keys_file", "introspection_url", "validation_url")


class TokenSettings(BaseModel):
    """Whose tokens are taken, how they are checked, and what their claims mean: a table `[[tokens]]` (docs/access.md).

    Exactly one of `jwks_url`, `keys_file`, `introspection_url` and `validation_url` says how. A claim is named by its path:
    `sub`, `user.id`, `realm_access.roles`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = ""
    """The `iss` of its tokens. Required for tokens that are checked here (`jwks_url`, `keys_file`)."""
    audience: tuple[str, ...] = ()
    """The `aud` that its tokens must have one of. Required for tokens that are checked here."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256")
    """By which its tokens may be signed, whatever they say."""
    leeway: Annotated[float, Field(ge=0, le=300)] = 10.0
    """Seconds that its clock may differ from ours."""

    jwks_url: str = ""
    """URL of its public keys, https."""
    jwks_refresh: Annotated[float, Field(ge=1)] = 300.0
    """Seconds after which they are fetched anew. A key that is not known is looked for at once."""
    jwks_max_age: Annotated[float, Field(ge=1)] = 24 * 3600.0
    """Seconds for which they serve on when the URL does not answer."""
    keys_file: Path | None = None
    """File with its public keys instead: a JWKS, or PEM of one key or certificate. Replaced files are noticed."""

    introspection_url: str = ""
    """URL that is asked about each token as RFC 7662 says."""
    client_id: str = ""
    """Who this server is to the introspection."""
    client_secret_file: Path | None = None
    """File with the secret that proves it."""
    validation_url: str = ""
    """URL of an in-house service that is asked whether a token is good."""
    validation_method: Literal["GET", "POST"] = "GET"
    """How it is asked."""
    validation_send: Literal["bearer", "form", "json"] = "bearer"
    """Where the token goes: into `authorization: Bearer`, or into a field `token` of a form or of JSON."""
    validation_success: Annotated[int, Field(ge=200, le=299)] = 200
    """The status by which it says yes; with it comes JSON about the caller, in which the claims below are looked for."""
    cache: Annotated[float, Field(ge=0, le=60)] = 2.0
    """Seconds for which an answer about a token holds. With 2 or less a token that is taken back opens nothing after 5 s."""

    timeout: Annotated[float, Field(gt=0, le=30)] = 2.0
    """Seconds that the issuer's service has to answer."""
    ca_file: Path | None = None
    """PEM of the authorities that vouch for the issuer's service; without it those that the HTTP library knows."""
    plain_http: bool = False
    """Take an http URL of a host other than loopback. For meshes that encrypt by themselves."""

    principal_claim: str = "sub"
    """Claim that names the service: the owner of what it makes."""
    principal: Annotated[str, Field(pattern=r"^[\x21-\x7e]{0,128}$")] = ""
    """One name for all of its tokens instead."""
    principal_prefix: Annotated[str, Field(pattern=r"^[\x21-\x7e]{0,64}$")] = ""
    """Put before what the claim says, so that two issuers do not mean the same."""
    user_claim: str = ""
    """Claim that names the user for whom it acts; `x-user-id` may then name no other."""
    scopes: tuple[ScopeName, ...] = ("run",)
    """What its tokens allow, where `scope_claim` is not set."""
    scope_claim: str = ""
    """Claim with names of scopes: a list, or words in one text."""
    scope_names: dict[str, ScopeName] = Field(default={"read": "read", "run": "run", "admin": "admin"})
    """What the names in it mean, such as `{ "dragoman.run" = "run" }`; others mean nothing."""
    agents: tuple[str, ...] = ("*",)
    """Patterns of the agents that its tokens may use."""
    agents_claim: str = ""
    """Claim with such patterns instead; a token without it may use none."""
    acts_for_users: bool = False
    """Whether its tokens may name a user by `x-user-id`."""
    quotas: QuotaSettings = QuotaSettings()
    """How much its principals may do."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [name for name in _WAYS if getattr(self, name)]
        if len(ways) != 1:
            raise ValueError(f"exactly one of {', '.join(_WAYS)} must be set")
        if ways[0] in ("jwks_url", "keys_file") and not (self.issuer and self.audience):
            raise ValueError(f"{ways[0]} needs issuer and audience: a token made for others must not count")
        if bool(self.client_id) != (self.client_secret_file is not None):
            raise ValueError("client_id and client_secret_file go together")
        if self.client_id and not self.introspection_url:
            raise ValueError("client_id is for introspection_url")
        url = self.url
        if url is not None:
            _check_url(ways[0], url, plain=self.plain_http)
        return self

    @property
    def url(self) -> str | None:
        """The URL that is asked, whatever for."""
        return self.jwks_url or self.introspection_url or self.validation_url or None


def _check_url(name: str, url: str, *, plain: bool) -> None:
    """Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name}: must be a URL such as https://login.example.com/keys")
    if parts.username or parts.password:
        raise ValueError(f"{name}: must not contain credentials")
    if parts.scheme == "http" and not plain and not _is_here(parts.hostname):
        raise ValueError(f"{name}: must be https; plain_http = true allows http where the mesh encrypts")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Makes of the settings what tells who calls: a part of the composition root, for `app`."""

import ssl

from dragoman.auth import (
    Asked,
    Asker,
    Bearers,
    CertificateRule,
    ClaimRule,
    Endpoint,
    FetchedKeys,
    FileKeys,
    Introspection,
    Issuer,
    KeysUnusable,
    Principal,
    Scope,
    Signed,
)
from dragoman.config import Settings, TokenSettings


def bearers(settings: Settings) -> Bearers | None:
    """Whose tokens are taken; None when none are. Reads files: not for an event loop. Raises KeysUnusable."""
    if "tokens" not in settings.auth:
        return None
    return Bearers([_issuer(each) for each in settings.tokens])


def _issuer(tokens: TokenSettings) -> Issuer:
    if tokens.keys_file is not None:
        keys = FileKeys(tokens.issuer, tokens.keys_file)
        return Issuer(tokens.issuer, _signed(tokens, keys), _rule(tokens), asked=False, leeway=tokens.leeway)
    asker = _asker(tokens)
    if tokens.jwks_url:
        fetched = FetchedKeys(
            tokens.issuer,
            tokens.jwks_url,
            asker,
            refresh=tokens.jwks_refresh,
            max_age=tokens.jwks_max_age,
        )
        return Issuer(
            tokens.issuer, _signed(tokens, fetched), _rule(tokens), asked=False, leeway=tokens.leeway
        )
    checker = Asked(_question(tokens), asker, cache=tokens.cache)
    return Issuer(tokens.issuer, checker, _rule(tokens), asked=True, leeway=tokens.leeway)


def _asker(tokens: TokenSettings) -> Asker:
    try:
        return Asker(timeout=tokens.timeout, ca_file=tokens.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise KeysUnusable(f"{tokens.ca_file}: {error.strerror or 'not PEM of certificates'}") from error


def _signed(tokens: TokenSettings, keys: FetchedKeys | FileKeys) -> Signed:
    return Signed(
        keys,
        issuer=tokens.issuer,
        audiences=tokens.audience,
        algorithms=tokens.algorithms,
        leeway=tokens.leeway,
    )


def _question(tokens: TokenSettings) -> Introspection | Endpoint:
    if tokens.validation_url:
        return Endpoint(
            tokens.issuer,
            tokens.validation_url,
            method=tokens.validation_method,
            send=tokens.validation_send,
            success=tokens.validation_success,
        )
    secret = ""
    if (file := tokens.client_secret_file) is not None:
        try:
            secret = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KeysUnusable(f"{file}: the client's secret cannot be read") from error
    return Introspection(
        tokens.issuer,
        tokens.introspection_url,
        client_id=tokens.client_id,
        client_secret=secret,
        audiences=tokens.audience,
        leeway=tokens.leeway,
    )


def _rule(tokens: TokenSettings) -> ClaimRule:
    return ClaimRule(
        principal_claim=tokens.principal_claim,
        principal=tokens.principal,
        prefix=tokens.principal_prefix,
        user_claim=tokens.user_claim,
        scopes=frozenset(map(Scope, tokens.scopes)),
        scope_claim=tokens.scope_claim,
        scope_names={name: Scope(scope) for name, scope in tokens.scope_names.items()},
        agents=tokens.agents,
        agents_claim=tokens.agents_claim,
        acts_for_users=tokens.acts_for_users,
        quotas=tokens.quotas.quotas(),
    )


def certificates(settings: Settings) -> list[CertificateRule]:
    """Whose certificates are whose."""
    if "certificates" not in settings.auth:
        return []
    return [
        CertificateRule(
            grant.identity,
            Principal(
                name=grant.principal,
                scopes=frozenset(map(Scope, grant.scopes)),
                agents=grant.agents,
                acts_for_users=grant.acts_for_users,
                quotas=grant.quotas.quotas(),
            ),
        )
        for grant in settings.certificates
    ]


def described(settings: Settings) -> str:
    """Who may call, in a few words."""
    if settings.auth:
        needs = {"keys": "an API key", "tokens": "a token", "certificates": "a certificate"}
        return f"callers need {' or '.join(needs[each] for each in settings.auth)}"
    if settings.is_local:
        return "this machine only: callers prove nothing"
    return "INSECURE: callers prove nothing, and anybody who reaches this address may run the agents"

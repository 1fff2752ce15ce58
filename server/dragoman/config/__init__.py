"""The server's settings, and the only reader of the environment.

A setting comes from, in falling order: a command-line flag, the environment (`DRAGOMAN_<NAME>`), a file `dragoman_<name>` in
the folder that `DRAGOMAN_SECRETS` names, the TOML file that `DRAGOMAN_CONFIG` names (else `dragoman.toml` in the working
directory, when there is one), the default in `settings`. What is misspelt is refused, wherever it stands: a setting that
silently kept its default would be found out much later.
"""

from dragoman.config.environment import (
    client_credentials,
    client_tls,
    has_model_key,
    local_time_zone,
    silence_agno,
)
from dragoman.config.sections import BudgetSettings, CertificateGrant, PrincipalQuotas, QuotaSettings
from dragoman.config.settings import DEFAULT_PORT, Settings
from dragoman.config.sources import (
    API_KEY_VARIABLE,
    CLIENT_TLS_VARIABLES,
    CONFIG_VARIABLE,
    DEFAULT_CONFIG,
    PREFIX,
    SECRETS_VARIABLE,
    SERVER_VARIABLE,
    TOKEN_VARIABLE,
    USER_VARIABLE,
    ConfigError,
)
from dragoman.config.tokens import TokenSettings

__all__ = [
    "API_KEY_VARIABLE",
    "CLIENT_TLS_VARIABLES",
    "CONFIG_VARIABLE",
    "DEFAULT_CONFIG",
    "DEFAULT_PORT",
    "PREFIX",
    "SECRETS_VARIABLE",
    "SERVER_VARIABLE",
    "TOKEN_VARIABLE",
    "USER_VARIABLE",
    "BudgetSettings",
    "CertificateGrant",
    "ConfigError",
    "PrincipalQuotas",
    "QuotaSettings",
    "Settings",
    "TokenSettings",
    "client_credentials",
    "client_tls",
    "has_model_key",
    "local_time_zone",
    "silence_agno",
]

"""Masks what looks like a secret, in any line that is logged.

By its name: a field called `password`, `authorization`, `x-api-key` and the like has no value. By its shape, anywhere in a text:

    dgm_k3y..._S3cret        an API key of ours: its public part stays
    Bearer ..., Basic ...    credentials of HTTP
    eyJ....eyJ....sig        a JSON web token
    sk-...                   keys of model providers
    ://user:password@        the password in a URL
    password=..., "api_key": "..."    names as above, within a text

It errs on the side of masking. Nothing here is a licence to log secrets: it catches what libraries and exceptions quote.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"

MAX_DEPTH: Final = 8
"""How deep values are looked into; what lies deeper is masked."""

_NAMES: Final = (
    r"(?:x[-_])?api[-_]?key|(?:proxy[-_])?authorization|(?:set[-_])?cookie|passw(?:or)?d|passphrase|"
    r"(?:client[-_])?secret(?:[-_](?:access[-_])?key)?|private[-_]key|(?:access|refresh|id|bearer|auth|session)[-_]token|token"
)
_NAME: Final = re.compile(rf"(?:.*[-_.])?(?:{_NAMES})", re.IGNORECASE)
_SHAPES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(dgm_[a-z2-7]{1,32})_[A-Za-z0-9_-]+"), rf"\1_{MASK}"),
    (re.compile(r"\b(Bearer)\s{1,3}[^\s\"',;]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\b(Basic)\s{1,3}[A-Za-z0-9+/=_-]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), MASK),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), f"sk-{MASK}"),
    (re.compile(r"(://[^\s/:@]{0,256}):[^\s@]{1,512}@"), rf"\1:{MASK}@"),
    (
        re.compile(
            rf"""(?<![A-Za-z])({_NAMES})(['"]{{0,2}}\s{{0,3}}[:=]\s{{0,3}}|['"],\s{{0,3}})(?!\s)(?:"[^"\n]*"|'[^'\n]*'|(?:(?:Bearer|Basic)\s)?[^\s"',;}}\])]+)""",
            re.IGNORECASE,
        ),
        rf"\1\2{MASK}",
    ),
)


def redact_text(text: str) -> str:
    """The text with what looks like a secret masked."""
    for shape, mask in _SHAPES:
        text = shape.sub(mask, text)
    return text


def redact(event: Any) -> Any:
    """The fields of a line, however deep, without secrets. What is neither text, number, list nor mapping becomes text."""
    return _plain(event, MAX_DEPTH)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth == 0:
        return MASK
    if isinstance(value, Mapping):
        return {
            redact_text(str(key)): MASK if _secret(key, each) else _plain(each, depth - 1)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple) and len(value) == 2 and _secret(*value):
        return [value[0], MASK]  # headers often come in pairs
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each, depth - 1) for each in value]
    return redact_text(str(value))


def _secret(name: object, value: object) -> bool:
    """Whether the field is a secret by its name. Figures are none: `total_tokens`, `max_token`."""
    return isinstance(name, str) and not isinstance(value, int | float) and _NAME.fullmatch(name) is not None

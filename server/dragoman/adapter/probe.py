"""One tiny request to a provider: whether a model answers, with the key that is there."""

from anthropic import (
    AnthropicError,
    APIConnectionError,
    APIStatusError,
    AsyncAnthropic,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)

TIMEOUT = 20.0
"""Seconds that the model has to answer."""


class ModelSilent(Exception):
    """The model did not answer. The text is a sentence for the operator, and quotes nothing of the provider's."""


async def ask_claude(model: str) -> None:
    """Has `model` make one token: it costs next to nothing. Raises ModelSilent."""
    try:
        async with AsyncAnthropic(max_retries=0, timeout=TIMEOUT) as client:
            await client.messages.create(
                model=model, max_tokens=1, messages=[{"role": "user", "content": "Say: yes"}]
            )
    except AnthropicError as error:
        raise ModelSilent(f"{model} {_why(error)}") from None


def _why(error: AnthropicError) -> str:
    match error:
        case AuthenticationError() | PermissionDeniedError():
            return "is refused to this key"
        case NotFoundError():
            return "is not known to the provider"
        case RateLimitError():
            return "is refused for now: too many requests"
        case APIStatusError(status_code=status):
            return f"was answered for with HTTP status {status}"
        case APIConnectionError():
            return "cannot be reached"
    return "cannot be asked: there is no key"

"""One spelling per provider: Agno says `xAI`, `AwsBedrock` or `OpenAI Chat`, the price data `x-ai`, `aws`, `openai`.

Names are matched exactly after this, never by likeness: a gateway that calls itself `MyOpenAIProxy` has its own
prices, which nobody may guess.
"""

_API_FLAVOURS = (" chat", " responses")
"""Agno's OpenAI-like classes add these to the provider's name in their metrics."""

_ALIASES = {
    "amazonbedrock": "aws",
    "awsbedrock": "aws",
    "bedrock": "aws",
    "azurefoundry": "azure",
    "azureopenai": "azure",
    "cerebrasopenai": "cerebras",
    "gemini": "google",
    "vertexai": "google",
    "moonshot": "moonshotai",
    "togetherai": "together",
}


def provider_key(name: str) -> str:
    """The canonical form of a provider's name: lower case, letters and digits only, aliases resolved."""
    plain = name.strip().lower()
    for flavour in _API_FLAVOURS:
        plain = plain.removesuffix(flavour)
    key = "".join(character for character in plain if character.isalnum())
    return _ALIASES.get(key, key)

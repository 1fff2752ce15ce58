"""Patterns of names, as operators write them into settings and grants.

In patterns of agents, principals and models `*` stands for any characters and `?` for one. In patterns of identities `*` alone
is special, and stands for one or more characters within one part of the name: between two slashes of a URI, between two dots
of a DNS name. So `spiffe://mesh/ns/*/sa/billing` is nobody's who may choose what comes after `sa/`. Brackets are never
special, and case counts.
"""

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Whether a name of an agent, a principal or a model is meant."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def matches_parts(name: str, pattern: str, separator: str) -> bool:
    """Whether an identity is meant, whose parts stand between separators."""
    names, patterns = name.split(separator), pattern.split(separator)
    return len(names) == len(patterns) and all(map(_matches_part, names, patterns))


def _matches_part(part: str, pattern: str) -> bool:
    if "*" not in pattern:
        return part == pattern
    return part != "" and fnmatchcase(part, pattern.replace("[", "[[]").replace("?", "[?]"))

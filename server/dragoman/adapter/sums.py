"""Sums of tokens, and which calls they are made of.

Agno adds up what a run has spent by kind, and does not say which call is in which sum. Calls differ in their figures, so
that as a rule there is one way only to divide them.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from dragoman.adapter.tokens import Counts

_STEPS: Final = 20_000
"""A search that takes longer is given up: the calls are then divided as they fit."""

_MOST: Final = 200
"""Nor is there a search among more calls."""


def plus(*addends: Counts | None) -> Counts:
    """The sum; None is nothing."""
    return tuple(map(sum, zip(*(one for one in addends if one is not None), strict=True)))


def minus(whole: Counts, part: Counts) -> Counts:
    """What is left, never less than nothing."""
    return tuple(max(0, a - b) for a, b in zip(whole, part, strict=True))


def fits(part: Counts, whole: Counts) -> bool:
    """Whether it can be a part of the other, figure by figure."""
    return all(a <= b for a, b in zip(part, whole, strict=True))


def divide(calls: Sequence[Counts], sums: Mapping[str, Counts]) -> list[str | None]:
    """For each call the kind whose sum it is a part of, or None: so that every sum is explained in full if it can be."""
    wanted = {kind: total for kind, total in sums.items() if any(total)}
    exact = _exactly(calls, wanted)
    return exact if exact is not None else _as_they_fit(calls, wanted)


def _exactly(calls: Sequence[Counts], sums: Mapping[str, Counts]) -> list[str | None] | None:
    """The first way in which every sum comes out; None if there is none, or it takes too long to find."""
    if len(calls) > _MOST:
        return None
    budget = iter(range(_STEPS))

    def search(at: int, left: Mapping[str, Counts]) -> list[str | None] | None:
        if not any(map(any, left.values())):
            return [None] * (len(calls) - at)
        if at == len(calls) or next(budget, None) is None:
            return None
        for kind, rest in left.items():
            if any(calls[at]) and fits(calls[at], rest):
                found = search(at + 1, {**left, kind: minus(rest, calls[at])})
                if found is not None:
                    return [kind, *found]
        found = search(at + 1, left)
        return None if found is None else [None, *found]

    return search(0, sums)


def _as_they_fit(calls: Sequence[Counts], sums: Mapping[str, Counts]) -> list[str | None]:
    chosen: list[str | None] = [None] * len(calls)
    for kind, total in sums.items():
        left = total
        # One that is the whole sum goes before its parts.
        for at in sorted(range(len(calls)), key=lambda at: calls[at] != total):
            if chosen[at] is None and fits(calls[at], left):
                chosen[at], left = kind, minus(left, calls[at])
    return chosen

"""What the offline model says: a small rule book that looks at the conversation and the tools.

The last message of the user is cut into steps at "then" and each step into requests at "and" or a comma. A request
calls a tool when it names it, shares words with its name or description, and has the arguments it needs; arithmetic
that stands alone, as in "What is 6 * 7?", calls a tool that takes an expression. The requests of a step are called
together, the steps one after the other; "it" or "the result" in a later step is what the step before gave. When all
steps are done the answer is made from their results. Without any tool the model looks at the pictures, answers
questions about what was said before, and otherwise says what it understood. What the leader of a team does is in
`_leader`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dragoman.testing._fill import NUMBER_WORDS, QUOTED, fill, takes_formula
from dragoman.testing.picture import UnreadablePicture, read_word

LOOKED_AT = 4000
"""Characters of a message that are searched for requests."""

_QUOTED_LENGTH = 300
"""Characters of a message or a result that are said again."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool gave."""

    tool: str
    text: str
    failed: bool
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What it had been called with."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the team that the model leads."""

    id: str
    name: str
    about: str
    """What the leader is told of it: role, description, and all of that of a team's own members."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the model was sent, as far as the rules look at it."""

    said: tuple[str, ...]
    """The user's messages so far, the present one last."""
    pictures: tuple[bytes | None, ...]
    """The present message's; None for one that came without its bytes."""
    rounds: int
    """How many times tools have been called for the present message."""
    results: tuple[Result, ...]
    """What they gave, in order."""
    members: tuple[Member, ...] = ()
    """Of the team that the model leads."""
    routes: bool = False
    """The team hands each message over to one member, whose reply is the answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool to call."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """Either tool calls or a text, and the thought behind it."""

    thought: str
    text: str = ""
    calls: tuple[Call, ...] = ()


def reply(conversation: Conversation, tools: Sequence[Tool]) -> Reply:
    """The model's next turn."""
    text = conversation.said[-1] if conversation.said else ""
    planned = steps(text[:LOOKED_AT])
    # A step in which nothing is to be called takes no round: the next one is looked at instead.
    done = 0
    for number, step in enumerate(planned):
        previous = conversation.results[-1] if conversation.results and number else None
        calls = calls_of(step, tools, previous)
        if not calls:
            continue
        if done == conversation.rounds:
            names = " and ".join(call.name for call in calls)
            return Reply(f"Step {done + 1} of what was asked needs {names}.", calls=calls)
        done += 1
    if conversation.results:
        return Reply("All results are there.", _from_results(conversation.results))
    if conversation.pictures:
        return Reply("I look at what was sent.", " ".join(map(describe, conversation.pictures)))
    return converse(conversation.said)


_THEN = re.compile(r"[,;.]?\s*\b(?:and\s+)?(?:then|after that|afterwards)\b[,:]?\s*", re.IGNORECASE)
_AND = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+(?:also\s+)?|\s*;\s*|(?<=[.?!])\s+", re.IGNORECASE)


def steps(text: str) -> list[list[str]]:
    """The text cut at "then", each part cut at "and", commas and ends of sentences; never within quotation marks."""
    text = text.replace("\0", "")  # it marks the places below
    quotations = [match.group() for match in QUOTED.finditer(text)]
    places = iter(range(len(quotations)))
    masked = QUOTED.sub(lambda _: f"\0{next(places)}\0", text)

    def unmasked(part: str) -> str:
        return re.sub(r"\0(\d+)\0", lambda match: quotations[int(match.group(1))], part)

    parts = (
        [unmasked(part) for part in _AND.split(step) if part.strip(" .?!,")] for step in _THEN.split(masked)
    )
    return [part for part in parts if part]


def calls_of(fragments: Sequence[str], tools: Sequence[Tool], previous: Result | None) -> tuple[Call, ...]:
    """The calls of one step. A request that lacks an argument may take it from what the step before gave."""
    calls: list[Call] = []
    for request in _requests(fragments, tools):
        parameters, text = request.tool.parameters, request.plain()
        filled = fill(parameters, _spelled(referring(text, previous)), request.rest())
        if not filled.complete and previous is not None and (number := _last_number(previous.text)):
            filled = fill(parameters, _spelled(f"{number} {text}"))
        if filled.complete or request.named:
            calls.append(Call(request.tool.name, filled.values))
    return tuple(calls)


@dataclass(frozen=True, slots=True)
class _Request:
    """A part of the message that asks for a tool."""

    tool: Tool
    text: str
    named: bool
    """The tool is called by its name, not only by words that fit."""

    def plain(self) -> str:
        """The text; a capital that it only has because it opens with one of the tool's own words is taken away."""
        first, _, more = self.text.partition(" ")
        if stems(first) & (stems(self.tool.name.replace("_", " ")) | stems(self.tool.description)):
            return f"{first.lower()} {more}"
        return self.text

    def rest(self) -> str:
        """What follows the tool's name, where it is named."""
        match = re.search(_name_pattern(self.tool), self.text, re.IGNORECASE)
        return self.text[match.end() :].strip(" :.?!") if match else ""


def _requests(fragments: Sequence[str], tools: Sequence[Tool]) -> list[_Request]:
    """The requests of one step. A fragment that asks for no tool itself belongs to the request before it."""
    requests: list[_Request] = []
    for fragment in fragments:
        tool, named = wanted(fragment, tools)
        if tool is not None:
            requests.append(_Request(tool, fragment, named))
        elif requests:
            last = requests[-1]
            schema = last.tool.parameters
            if (
                schema.get("required")
                and fill(schema, last.text).complete
                and fill(schema, fragment).complete
            ):
                # "weather in Paris and London": the first is whole already, so the second is another of its kind.
                requests.append(_Request(last.tool, fragment, last.named))
            else:
                requests[-1] = _Request(last.tool, f"{last.text} and {fragment}", last.named)
    return requests


def _name_pattern(tool: Tool) -> str:
    name = re.escape(tool.name)
    return rf"\b(?:{name}|{name.replace('_', ' ')})\b"


ARITHMETIC = re.compile(
    r"\s*(?:(?:what(?:\s+is|['’]s)|how\s+much\s+is)\s+)?-?[\d(][\d\s.()]*[-+*/^%][-\d\s+*/().^%]*[\d)][\s=.?!]*\Z",
    re.IGNORECASE,
)
"""Two numbers at least with an operator between them, and nothing else but the question."""


def wanted(fragment: str, tools: Sequence[Tool]) -> tuple[Tool | None, bool]:
    """The tool that fits best, and whether it was called by its name."""
    for tool in sorted(tools, key=lambda tool: -len(tool.name)):
        if re.search(_name_pattern(tool), fragment, re.IGNORECASE):
            return tool, True
    words = stems(fragment)
    scored = [(_score(tool, words), -number, tool) for number, tool in enumerate(tools)]
    best = max(scored, key=lambda entry: entry[:2], default=None)
    if best is not None and best[0] >= 2:
        return best[2], False
    if ARITHMETIC.match(fragment):
        return next((tool for tool in tools if takes_formula(tool.parameters)), None), False
    return None, False


def _score(tool: Tool, words: frozenset[str]) -> int:
    name = stems(tool.name.replace("_", " "))
    summary = stems(tool.description.strip().split("\n\n")[0])
    return 2 * len(name & words) + len((summary - name) & words)


_STOP = frozenset(
    re.findall(
        r"\w+",
        """a an and any are as at be but by can could current do does for from get give given has have how if in into
        is it its let list make me my number numbers of on one or our out please return run say show so some tell text
        that the their then this to two use user value was we what when where which who will with would you your""",
    )
)
_SAME = {
    "plus": "add",
    "sum": "add",
    "minus": "subtract",
    "times": "multiply",
    "product": "multiply",
    "over": "divide",
}


def stems(text: str) -> frozenset[str]:
    words = (word for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in _STOP and len(word) > 2)
    return frozenset(_stem(_SAME.get(word, word)) for word in words)


def _stem(word: str) -> str:
    for ending in ("ing", "ied", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _spelled(text: str) -> str:
    """Number words as digits."""
    return re.sub(r"\b[a-z]+\b", lambda match: NUMBER_WORDS.get(match.group(), match.group()), text)


_REFERENCE = re.compile(
    r"\b(?:it|that|this|the (?:result|sum|product|answer|total|outcome))\b", re.IGNORECASE
)


_TOLD = re.compile(r"\bis (\w+)\.?\s*\Z")
"""The end of a sentence such as "The word in the picture is Rome."."""


def referring(text: str, previous: Result | None) -> str:
    """`text` with "it" or "the result" replaced by what the step before gave: a number, a word that it ends in, or all."""
    if previous is None or not _REFERENCE.search(text):
        return text
    told = _TOLD.search(previous.text)
    value = _last_number(previous.text) or f'"{told.group(1) if told else previous.text}"'
    return _REFERENCE.sub(lambda _: value, text, count=1)


def _last_number(text: str) -> str | None:
    found = re.findall(r"-?\d+(?:\.\d+)?", text)
    return found[-1] if found else None


def _from_results(results: Sequence[Result]) -> str:
    sentences = []
    for result in results:
        text = short(result.text).rstrip(".")
        sentences.append(f"{result.tool} failed: {text}." if result.failed else f"{result.tool} gave {text}.")
    return " ".join(sentences)


def describe(picture: bytes | None) -> str:
    if picture is None:
        return "I was sent a picture, but not its bytes."
    try:
        word = read_word(picture)
    except UnreadablePicture as problem:
        return f"I cannot read the picture: {problem}."
    return "I see no word in the picture." if word is None else f"The word in the picture is {word}."


def converse(said: Sequence[str]) -> Reply:
    text = said[-1].strip() if said else ""
    earlier = [short(one) for one in said[:-1]]
    question = text[:LOOKED_AT].lower()
    if re.search(r"\bmy name\b.*\?|\bwho am i\b", question):
        pattern = re.compile(r"\b[Mm]y name is ([\w'-]+)|\bI am ([A-Z]\w+)")
        names = [match for one in earlier for match in pattern.findall(one)]
        if names:
            return Reply("The name was told before.", f"Your name is {''.join(names[-1])}.")
        return Reply("No name was told.", "You have not told me your name.")
    if re.search(
        r"\b(?:i|we)\b.*\b(?:say|said|ask|asked|tell|told|write|wrote|mention|mentioned)\b", question
    ):
        return Reply("The question is about earlier messages.", _recall(question, earlier))
    if not text:
        return Reply("There is nothing to go by.", "You have not said anything.")
    number = f"This is your message number {len(said)}." if earlier else "This is your first message."
    return Reply("Nothing is to be done but answer.", f"I understand: “{short(text)}”. {number}")


def _recall(question: str, earlier: Sequence[str]) -> str:
    if not earlier:
        return "You have not said anything before."
    if re.search(r"\bfirst\b|\bbeginning\b", question):
        return f"First you said: {earlier[0]}"
    if re.search(r"\blast\b|\bbefore\b|\bjust\b|\bprevious", question):
        return f"Before that you said: {earlier[-1]}"
    return "You said: " + " / ".join(earlier)


def short(text: str) -> str:
    """The text on one line, the end of a long one left out."""
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED_LENGTH else f"{line[: _QUOTED_LENGTH - 1]}…"

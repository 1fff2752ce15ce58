"""Answers to a paused run, given on a command line as `ID`, `ID=text` or `ID={json}`."""

import json
from collections.abc import Sequence

from dragoman.cli._report import USAGE, Failure
from dragoman.cli._values import pairs
from dragoman.client import choose, confirm, give_result, provide_input, reject
from dragoman.v1 import run_service_pb2


def resolutions(
    confirmed: Sequence[str],
    rejected: Sequence[str],
    inputs: Sequence[str],
    results: Sequence[str],
    choices: Sequence[str],
) -> list[run_service_pb2.Resolution]:
    """The answers of all options. Raises Failure for what cannot be read, and when there are none."""
    found = [confirm(each) for each in confirmed]
    for each in rejected:
        requirement, _, note = each.partition("=")
        found.append(reject(requirement, note))
    found += [provide_input(key, _object(text, "--input")) for key, text in pairs(inputs, "--input").items()]
    found += [give_result(key, text) for key, text in pairs(results, "--result").items()]
    for key, text in pairs(choices, "--choose").items():
        found.append(choose(key, {name: _labels(value) for name, value in _object(text, "--choose").items()}))
    if not found:
        raise Failure(
            "give an answer to each requirement; `dragoman runs show RUN_ID` lists them", code=USAGE
        )
    return found


def _object(text: str, option: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Failure(f"{option} wants ID={{json}} with a JSON object, not {text!r}", code=USAGE)
    return value


def _labels(value: object) -> str | list[str]:
    labels = value if isinstance(value, list) else [value]
    if not all(isinstance(label, str) for label in labels):
        raise Failure("--choose wants a label, or a list of labels, for each question", code=USAGE)
    return [str(label) for label in labels]

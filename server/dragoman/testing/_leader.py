"""What the offline model says when it leads a team: rules for who is asked for what.

The leader reads the roster that Agno puts into its system message. The user's message is cut into steps and requests,
as in `_responder`, and each request goes to the tool of the leader's own that it asks for, else to the member that is
named in it or whose role fits it best. What goes to one member in one step is one task; the members of a step are asked
in one turn, and "it" in a later step is what the step before came to. When all is done the leader answers from what its
members said. A request that fits nobody it answers itself.

    route       the whole message goes to one member
    broadcast   the whole message goes to all of them, once
    tasks       each step's tasks are created in one turn and executed in the next; tools of its own are not called
"""

import re
from collections.abc import Sequence

from dragoman.testing._responder import (
    ARITHMETIC,
    LOOKED_AT,
    Call,
    Conversation,
    Member,
    Reply,
    Result,
    Tool,
    calls_of,
    converse,
    describe,
    referring,
    short,
    stems,
    steps,
    wanted,
)

DELEGATE, DELEGATE_ALL = "delegate_task_to_member", "delegate_task_to_members"
CREATE, EXECUTE, EXECUTE_ALL = "create_task", "execute_task", "execute_tasks_parallel"
COMPLETE = "mark_all_complete"

LEADERS_TOOLS = frozenset(
    {DELEGATE, DELEGATE_ALL, CREATE, EXECUTE, EXECUTE_ALL, COMPLETE}
    | {"update_task_status", "list_tasks", "add_task_note"}
)
"""Tools that a leader has because it leads."""

_ROSTER = re.compile(r"<team_members>\n(.*?)</team_members>", re.DOTALL)
_MEMBER = re.compile(r'<member id="([^"]*)" name="([^"]*)"[^>]*>\n(.*?)(?=<member id="|\Z)', re.DOTALL)
_ROUTES = re.compile(r"\broute mode\b")
_TASK_ID = re.compile(r"\[([^\]]+)\]")
_TASK_RESULT = re.compile(r"^Task \[[^\]]+\].*?Result: ", re.MULTILINE)

_PICTURES = stems("picture image photo")
_ARITHMETIC = stems("calculate arithmetic mathematics numbers sums")


def read_roster(system: str) -> tuple[tuple[Member, ...], bool]:
    """The members that a system message names, none when it is not a leader's, and whether the team routes."""
    found = _ROSTER.search(system)
    if found is None:
        return (), False
    members = tuple(
        Member(key, name, re.sub(r"</?member[^>]*>", " ", about))
        for key, name, about in _MEMBER.findall(found.group(1))
    )
    return members, _ROUTES.search(system) is not None


def lead(conversation: Conversation, tools: Sequence[Tool]) -> Reply:
    """The leader's next turn."""
    offered = {tool.name for tool in tools}
    text = conversation.said[-1] if conversation.said else ""
    if CREATE in offered:
        return _work_on_tasks(conversation, _plan(conversation, ()))
    plan = _plan(conversation, [tool for tool in tools if tool.name not in LEADERS_TOOLS])
    if DELEGATE_ALL in offered:
        return _broadcast(conversation, text, asked=bool(plan))
    if conversation.routes:
        return _route(conversation, text, plan)
    return _coordinate(conversation, plan)


class _Step:
    """What is done in one turn: calls of the leader's own tools, and a task for each member that is asked."""

    def __init__(self, fragments: Sequence[str], tools: Sequence[Tool], members: Sequence[Member]) -> None:
        self.own: list[str] = []
        self.tasks: dict[str, str] = {}
        self._tools = tools
        for fragment in fragments:
            own, named = wanted(fragment, tools)
            member = None if named else _fitting(fragment, members)
            if member is not None:
                self._add(member.id, fragment)
            elif own is not None or self.own:
                self.own.append(fragment)
            elif self.tasks:
                self._add(next(reversed(self.tasks)), fragment)

    def _add(self, member: str, fragment: str) -> None:
        before = self.tasks.get(member)
        self.tasks[member] = f"{before} and {fragment}" if before else fragment

    def __bool__(self) -> bool:
        return bool(self.own or self.tasks)

    def own_calls(self, previous: Result | None) -> tuple[Call, ...]:
        return calls_of(self.own, self._tools, previous)

    def told(self, previous: Result | None) -> list[tuple[str, str]]:
        """Member ids and what each is told, which is all that it knows."""
        return [(member, _sentence(referring(task, previous))) for member, task in self.tasks.items()]


def _plan(conversation: Conversation, own: Sequence[Tool]) -> list[_Step]:
    """The steps in which something is to be done; one that is about the picture, when there is one and nothing else."""
    text = conversation.said[-1][:LOOKED_AT] if conversation.said else ""
    found = [_Step(fragments, own, conversation.members) for fragments in steps(text)]
    planned = [step for step in found if step]
    if not planned and conversation.pictures:
        about = next((member for member in conversation.members if _words(member) & _PICTURES), None)
        if about is not None:
            step = _Step((), own, ())
            step.tasks[about.id] = text.strip() or "Say what is in the picture."
            planned = [step]
    return planned


def _fitting(fragment: str, members: Sequence[Member]) -> Member | None:
    """The member that is named, or shares most words with the request; None when nobody shares any."""
    for member in sorted(members, key=lambda member: -len(member.name)):
        if re.search(rf"\b{re.escape(member.name)}\b", fragment, re.IGNORECASE):
            return member
    sought = stems(fragment) or (_ARITHMETIC if ARITHMETIC.match(fragment) else frozenset())
    scored = [(_score(member, sought), -number, member) for number, member in enumerate(members)]
    best = max(scored, key=lambda entry: entry[:2], default=None)
    return best[2] if best is not None and best[0] else None


def _score(member: Member, sought: frozenset[str]) -> int:
    name = stems(member.name.replace("_", " "))
    return 2 * len(name & sought) + len((_words(member) - name) & sought)


def _words(member: Member) -> frozenset[str]:
    return stems(member.about)


def _coordinate(conversation: Conversation, plan: Sequence[_Step]) -> Reply:
    # A step in which nothing can be called takes no round: the next one is looked at instead.
    done = 0
    for number, step in enumerate(plan):
        previous = conversation.results[-1] if conversation.results and number else None
        told = step.told(previous)
        calls = (
            *step.own_calls(previous),
            *(Call(DELEGATE, {"member_id": member, "task": task}) for member, task in told),
        )
        if not calls:
            continue
        if done == conversation.rounds:
            asked = " and ".join(str(call.arguments.get("member_id", call.name)) for call in calls)
            return Reply(f"Step {done + 1} is for {asked}.", calls=calls)
        done += 1
    return _answer(conversation)


def _route(conversation: Conversation, text: str, plan: Sequence[_Step]) -> Reply:
    if conversation.rounds:
        return _answer(conversation)
    asked = [member for step in plan for member in step.tasks] or [conversation.members[0].id]
    return Reply(f"This is for {asked[0]}.", calls=(Call(DELEGATE, {"member_id": asked[0], "task": text}),))


def _broadcast(conversation: Conversation, text: str, *, asked: bool) -> Reply:
    if conversation.rounds or not asked:
        return _answer(conversation)
    return Reply("Everybody is asked.", calls=(Call(DELEGATE_ALL, {"task": text}),))


def _work_on_tasks(conversation: Conversation, plan: Sequence[_Step]) -> Reply:
    """Two turns for each step: its tasks are created, then executed. What has failed is told, not tried again."""
    number, executes = divmod(conversation.rounds, 2)
    created = [result for result in conversation.results if result.tool == CREATE]
    executed = [result for result in conversation.results if result.tool in (EXECUTE, EXECUTE_ALL)]
    if number < len(plan) and not executes:
        previous = executed[-1] if executed else None
        before = [key for result in created for key in _task_ids(result)][-len(plan[number - 1].tasks) :]
        more = {"depends_on": before} if number and before else {}
        calls = tuple(
            Call(CREATE, {"title": short(task)[:80], "description": task, "assignee": member, **more})
            for member, task in plan[number].told(previous)
        )
        return Reply(f"Step {number + 1} makes {len(calls)} of the tasks.", calls=calls)
    if number < len(plan):
        tasks = list(plan[number].tasks)
        ids = [key for result in created for key in _task_ids(result)][-len(tasks) :]
        if len(ids) == 1:
            return Reply(
                "The task is done now.", calls=(Call(EXECUTE, {"task_id": ids[0], "member_id": tasks[0]}),)
            )
        return Reply("The tasks are done now.", calls=(Call(EXECUTE_ALL, {"task_ids": ids}),))
    answer = _answer(conversation)
    if plan or any(result.tool == COMPLETE for result in conversation.results):
        return answer
    return Reply("There is no task in this.", calls=(Call(COMPLETE, {"summary": short(answer.text)}),))


def _task_ids(result: Result) -> list[str]:
    return _TASK_ID.findall(result.text)[:1]


def _answer(conversation: Conversation) -> Reply:
    said = [result for result in conversation.results if result.tool not in (CREATE, COMPLETE)]
    if said:
        return Reply("Everybody has answered.", " ".join(_told(result, conversation) for result in said))
    if conversation.pictures:
        return Reply("I look at what was sent.", " ".join(map(describe, conversation.pictures)))
    return converse(conversation.said)


def _told(result: Result, conversation: Conversation) -> str:
    """What one call came to, as a sentence of the leader."""
    text = short(_TASK_RESULT.sub("", result.text)).rstrip(".")
    if result.tool not in LEADERS_TOOLS:
        return f"{result.tool} failed: {text}." if result.failed else f"{result.tool} gave {text}."
    asked = result.arguments.get("member_id")
    names = {member.id: member.name for member in conversation.members}
    speaker = names.get(str(asked), "The team")
    return f"{speaker} says: {text}." if text else f"{speaker} says nothing."


def _sentence(text: str) -> str:
    """The task with a capital and a full stop: a member reads it on its own."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")

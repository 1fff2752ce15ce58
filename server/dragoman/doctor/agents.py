"""What is served, and what it costs: agents, their models, prices, limits of what may be spent."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dragoman.config import Settings, has_model_key, silence_agno
from dragoman.doctor.findings import Finding, failed, good, warning

if TYPE_CHECKING:
    from dragoman.catalog import CatalogError
    from dragoman.v1 import agent_service_pb2

RATE_AGE = 35
"""Days after which an exchange rate is old where the settings do not say."""

CLAUDE = "anthropic"


class Served:
    """The agents of the settings, loaded once for all checks that want them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._agents: list[agent_service_pb2.Agent] | None = None
        self._error: CatalogError | None = None

    def models(self) -> set[tuple[str, str]]:
        """Provider and name of all their models, members' included; none when they cannot be loaded."""
        self._load()
        return set(_models(self._agents or []))

    def check(self) -> Iterator[Finding]:
        """Whether all of them can be imported and built."""
        self._load()
        if self._error is not None:
            for problem in self._error.problems:
                yield failed(str(problem), "mend it there; `dragoman agents check` looks again")
        elif not self._agents:
            yield warning("no agents are served", "name some as MODULE:ATTRIBUTE in agents (DRAGOMAN_AGENTS)")
        else:
            names = ", ".join(each.name for each in self._agents)
            yield good(f"{len(self._agents)} can be served: {names}")

    def _load(self) -> None:
        from dragoman.catalog import CatalogError, load

        with self._lock:
            if self._agents is not None or self._error is not None:
                return
            silence_agno()
            try:
                catalog = load(self._settings.agents, entry_points=self._settings.entry_points)
            except CatalogError as error:
                self._error = error
            else:
                self._agents = [entry.proto for entry in catalog.entries]


def _models(agents: "Iterable[agent_service_pb2.Agent]") -> Iterator[tuple[str, str]]:
    for agent in agents:
        if agent.model:
            yield agent.provider, agent.model
        yield from _models(agent.members)


def prices(settings: Settings, served: Served) -> Iterator[Finding]:
    """Whether every model has a price, and the exchange rate is of these days."""
    from dragoman.pricing import PriceFileError, Pricer

    try:
        pricer = Pricer.load(
            currency=settings.currency, prices_file=settings.prices_file, rates_file=settings.rates_file
        )
    except PriceFileError as error:
        yield failed(str(error), "mend the file; `dragoman prices check` looks again")
        return
    now = datetime.now(UTC)
    rate, oldest = pricer.rate(now.date()), settings.max_rate_age_days or RATE_AGE
    import_them = "import newer ones: `dragoman rates import --help`"
    if rate is None:
        yield failed(f"there is no exchange rate to {pricer.currency} yet: nothing has a cost", import_them)
    elif settings.currency != "USD" and settings.rates_file is None:
        yield warning(
            f"exchange rates are those that are shipped, which are indicative ({pricer.currency} of {rate.day})",
            "name your own in rates_file; `dragoman rates import --help`",
        )
    elif (now.date() - rate.day).days > oldest:
        yield warning(f"the newest exchange rate to {pricer.currency} is of {rate.day}", import_them)
    else:
        yield good(f"the newest exchange rate to {pricer.currency} is of {rate.day}")
    models = served.models()
    unpriced = sorted(model for provider, model in models if not pricer.explain(provider, model, now))
    if unpriced:
        yield warning(
            f"without a price, so that their calls are booked without a cost: {', '.join(unpriced)}",
            "add them to prices_file; `dragoman prices --help`",
        )
    elif models:
        yield good("all models of the agents have a price")


def models(served: Served, *, call: bool) -> Iterator[Finding]:
    """Whether there is a key for the models that want one; with `call`, whether they answer."""
    claude = sorted(model for provider, model in served.models() if provider.lower() == CLAUDE)
    if has_model_key():
        yield good("ANTHROPIC_API_KEY is set")
    elif claude:
        yield warning(
            f"ANTHROPIC_API_KEY is not set, and {', '.join(claude)} may want it",
            "set it in the server's environment, unless the agents bring a key of their own",
        )
    if not call:
        return
    if not claude:
        yield warning("no agent has a model that could be called", "name agents with models of Anthropic's")
        return
    from dragoman.adapter import ModelSilent, ask_claude

    for model in claude:
        try:
            asyncio.run(ask_claude(model))
        except ModelSilent as error:
            yield failed(str(error), "see ANTHROPIC_API_KEY, the model's name, and the way to the provider")
        else:
            yield good(f"{model} answers")


def spending(settings: Settings) -> Iterator[Finding]:
    """Whether anything ends a run, or a caller, that spends without end."""
    if settings.budgets or settings.max_run_cost is not None:
        yield good("what may be spent is limited")
    else:
        yield warning(
            "nothing limits what is spent but the budgets of credentials",
            "set budgets, or max_run_cost for each run",
        )

"""What the engine and the transport need of the other rooms, as Protocols.

`app.py` wires the real things in and mypy proves that they fit; nothing here imports them.

    Catalog        which agents there are, and whether they accept what a caller sent       catalog/
    Runner         runs an agent and says what happened                                     adapter/
    MessageView    shows a stored message as its proto                                      adapter/
    MediaInspector tells whether bytes are what they claim to be                            adapter/
    MediaFetcher   fetches media that callers name by URL                                   fetch/
    BlobStore      keeps media, where the database does not                                 blobs/
    Store          keeps everything                                                         storage/
    Pricer         what tokens cost                                                         pricing/
    Signals        tells other processes at once what they would find in the store later    signals/
"""

from dragoman.engine.ports.media import (
    BlobStore,
    FetchedMedium,
    InputMedia,
    MediaFetcher,
    MediaInspector,
    MediaKind,
    StoredMedium,
)
from dragoman.engine.ports.money import (
    BudgetPeriod,
    BudgetRule,
    BudgetState,
    Pricer,
    Spending,
    SpendingQuery,
    UsageDimension,
    UsageQuery,
    UsageRow,
)
from dragoman.engine.ports.runs import (
    AgentRun,
    Catalog,
    Continuation,
    ContinueDraft,
    JsonObject,
    MessageView,
    Meter,
    Outcome,
    RunDraft,
    Runner,
    RunOrder,
)
from dragoman.engine.ports.signals import Signals
from dragoman.engine.ports.store import (
    Continued,
    Ended,
    Key,
    Notice,
    Page,
    Progress,
    RequestRecord,
    Started,
    Store,
    TimeKey,
)

__all__ = [
    "AgentRun",
    "BlobStore",
    "BudgetPeriod",
    "BudgetRule",
    "BudgetState",
    "Catalog",
    "Continuation",
    "ContinueDraft",
    "Continued",
    "Ended",
    "FetchedMedium",
    "InputMedia",
    "JsonObject",
    "Key",
    "MediaFetcher",
    "MediaInspector",
    "MediaKind",
    "MessageView",
    "Meter",
    "Notice",
    "Outcome",
    "Page",
    "Pricer",
    "Progress",
    "RequestRecord",
    "RunDraft",
    "RunOrder",
    "Runner",
    "Signals",
    "Spending",
    "SpendingQuery",
    "Started",
    "Store",
    "StoredMedium",
    "TimeKey",
    "UsageDimension",
    "UsageQuery",
    "UsageRow",
]

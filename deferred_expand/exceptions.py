"""
Every error this package raises, in one tree.

::

    DeferredExpandError
    ├── DefinitionError            wrong use, found while the DAG is parsed
    │   └── SourceNotImportable    a triggerer could not import the source
    ├── SourceError                the outside source did not keep its part
    │   ├── SourceFailed           it raised, and ``source_retries`` are used up
    │   ├── SourceTimedOut         ``execution_timeout`` of the unmapped task has passed
    │   ├── SourceGaveUp           it raised ``AirflowFailException``: no more tries
    │   ├── SourceSkipped          it raised ``AirflowSkipException``
    │   ├── CursorStuck            it gave one cursor twice, with items in between
    │   └── SourceShrank           opened again, it gave fewer items than were committed
    ├── ItemError                  one item cannot become a task instance
    │   ├── ItemNotSerializable
    │   └── ItemTooLarge
    ├── ItemsFailed                more items of one instance failed than are tolerated
    ├── WindowRunFailed            the run of a window cannot be started, or has failed
    ├── ResultTooLarge             an item's result does not fit into the task state store
    ├── StagingFailed              the XCom backend raised, and ``source_retries`` are used up
    ├── NotInContext               an operator asks for what the triggerer does not know
    ├── CursorNotSerializable      a page's cursor is not JSON
    ├── TooManyItemsFailed         more items failed than ``tolerate``, or ``fail_fast``, allows
    ├── ResultsAwaited             in ``dag.test()``, a loop lets its items run first
    ├── NothingRuns                a source waits for items of a group that runs at the end
    └── StreamError                the stream's own records do not fit together
        ├── CannotUnseal           they were sealed with a Fernet key that is not here
        ├── ItemNotFound           no batch holds the item any more
        ├── ItemsRemoved           Airflow marked committed items REMOVED
        └── MapLengthExceeded      ``[core] max_map_length`` is reached
"""

from __future__ import annotations


class DeferredExpandError(Exception):
    """Base of every error of this package."""


class DefinitionError(DeferredExpandError, ValueError):
    """The DAG uses the package wrongly; the message names the DAG, the task and the remedy."""


class SourceNotImportable(DefinitionError):
    """A triggerer, which does not load DAG files, could not import the source."""


class SourceError(DeferredExpandError):
    """The outside source did not keep its part."""


class SourceFailed(SourceError):
    """The source raised, also when it was opened again ``source_retries`` times."""


class SourceTimedOut(SourceError):
    """The source was waited for longer than ``execution_timeout`` of the unmapped task."""


class SourceGaveUp(SourceError):
    """The source raised ``AirflowFailException``: nobody shall try again."""

    outcome = "fail"


class SourceSkipped(SourceError):
    """The source raised ``AirflowSkipException``."""

    outcome = "skip"


class CursorStuck(SourceError):
    """The source does not advance: it would give the same items for ever."""


class SourceShrank(SourceError):
    """The source, opened again, ended before the items already committed were passed over."""


class TooManyItemsFailed(DeferredExpandError):
    """More items of the stream failed than are tolerated: nobody shall try again."""

    outcome = "fail"


class ResultsAwaited(DeferredExpandError):
    """In ``dag.test()``: the source waits for items that run only once it has let go."""


class NothingRuns(DeferredExpandError):
    """The source waits for items that run only when the stream has ended: nobody shall try again."""

    outcome = "fail"


class ItemError(DeferredExpandError):
    """One item cannot become a task instance; the message names its number."""


class ItemNotSerializable(ItemError):
    """Neither JSON nor Airflow's serde can write the item."""


class ItemTooLarge(ItemError):
    """One item alone is over ``[deferred_expand] max_batch_bytes``."""


class WindowRunFailed(DeferredExpandError):
    """The run of another DAG that works on a window cannot be started, or has failed."""


class ItemsFailed(DeferredExpandError):
    """More items of one task instance failed than are tolerated, or are to be tried again."""


class ResultTooLarge(DeferredExpandError):
    """An item's result does not fit into Airflow's task state store."""


class StagingFailed(DeferredExpandError):
    """The XCom backend raised, also when the batch was written again ``source_retries`` times."""


class NotInContext(DeferredExpandError, KeyError):
    """An operator that is a source asks its context for what is not to be had where it is walked."""

    __str__ = Exception.__str__  # and not the message's repr, as of a key


class CursorNotSerializable(DeferredExpandError):
    """A page's cursor is not JSON, so the stream could not go on from it."""


class StreamError(DeferredExpandError):
    """The stream's own records do not fit together."""


class CannotUnseal(StreamError):
    """``[core] fernet_key`` does not open what another process has sealed."""


class ItemNotFound(StreamError, LookupError):
    """The stream holds no such item, mostly because it was opened anew since."""


class ItemsRemoved(StreamError):
    """Airflow marked committed items REMOVED and will not bring them back by itself."""


class MapLengthExceeded(StreamError):
    """The stream has grown to ``[core] max_map_length``."""

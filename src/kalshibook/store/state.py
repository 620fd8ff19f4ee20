"""What a store's writer and its readers share: one current version, and how it is published."""

import threading

from kalshibook.store.changes import ChangeReader
from kalshibook.store.cut import EMPTY_VERSION, StoreVersion
from kalshibook.store.directory import Directory
from kalshibook.store.history import History
from kalshibook.store.incidents import IncidentLog
from kalshibook.store.options import StoreOptions

__all__ = ["StoreState"]


class StoreState:
    """The shared heart of a store. Readers load `version`; only the writer publishes."""

    __slots__ = ("directory", "history", "incidents", "options", "readers", "ready", "version")

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        self.version: StoreVersion = EMPTY_VERSION
        """The current version; replaced whole, by one assignment."""
        self.directory = Directory()
        self.history = History(options.recent_versions, options.history_seconds, options.history_step_ms)
        self.history.add(self.version)
        self.incidents = IncidentLog(options.incident_capacity)
        self.readers: tuple[ChangeReader, ...] = ()
        self.ready = threading.Event()

    def publish(self, version: StoreVersion) -> None:
        """Make a version the current one. Only the writer may call this."""
        # The history first: whoever learns a version's number from a read then finds it there.
        self.history.add(version)
        self.version = version

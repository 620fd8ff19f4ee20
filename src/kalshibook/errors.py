"""
Errors, and what a caller can do about each.

KalshiBookError
├── WireError           a message cannot be read: it is quarantined, fix the producer
├── SettingsError       a setting is unknown or unfit: fix the configuration
├── FeedError           the feed cannot run at all: fix its configuration
├── ExchangeError       the exchange did not do what it was asked
│   ├── ExchangeRefused        it said no: fix the request, the key or the clock
│   └── ExchangeUnavailable    it could not be reached, or not within its limits: try again later
├── ArchiveError        the archive cannot be used as it is: fix its database or its settings
├── ReadError           a read was refused
│   ├── UnknownMarket   fix the ticker, or wait until the market appears
│   ├── NotReady        wait: no snapshot yet, or the offset asked for is not reached
│   ├── Stale           data exists but is in doubt or older than allowed
│   └── VersionGone     ask for a version or a time that is still kept
└── StoreError          the store is used against its rules: a bug in the caller
"""

__all__ = [
    "ArchiveError",
    "ExchangeError",
    "ExchangeRefused",
    "ExchangeUnavailable",
    "FeedError",
    "KalshiBookError",
    "NotReady",
    "ReadError",
    "SettingsError",
    "Stale",
    "StoreError",
    "UnknownMarket",
    "VersionGone",
    "WireError",
]

# What was found is quoted; it may be a megabyte, and a log or an incident list keeps it.
_REASON_LIMIT = 300


class KalshiBookError(Exception):
    """Base of everything that kalshibook raises on purpose."""


class WireError(KalshiBookError):
    """
    A frame, an envelope or a number on the wire cannot be read.

    Attributes:
        path: where in the message, as a JSON path such as ``$.payload.msg.price_dollars``.
        reason: what was found and what was expected, cut at 300 characters.
    """

    def __init__(self, path: str, reason: str) -> None:
        if len(reason) > _REASON_LIMIT:
            reason = f"{reason[:_REASON_LIMIT]}..."
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class SettingsError(KalshiBookError):
    """A setting is unknown, malformed or contradicts another one."""


class FeedError(KalshiBookError):
    """A feed cannot run with what it was given; retrying will not help."""


class ArchiveError(KalshiBookError):
    """An archive's database cannot be used as it is; retrying will not help."""


class ExchangeError(KalshiBookError):
    """The exchange did not do what it was asked."""


class ExchangeRefused(ExchangeError):  # noqa: N818 - reads as the fact it states
    """
    The exchange said no; the same request will be refused again.

    Attributes:
        status: the HTTP status, such as 404.
        code: the exchange's word for it, or empty.
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ExchangeUnavailable(ExchangeError):  # noqa: N818
    """
    The exchange could not be reached, failed, or had no budget left for us, after several attempts.

    Attributes:
        attempts: how often it was tried.
        status: the last HTTP status, or None where there was no answer.
    """

    def __init__(self, message: str, *, attempts: int, status: int | None) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.status = status


class ReadError(KalshiBookError):
    """A read was refused; the store itself is well."""


class UnknownMarket(ReadError, KeyError):  # noqa: N818 - reads as the fact it states
    """
    No message has ever named this market.

    Attributes:
        ticker: the market asked for.
    """

    def __init__(self, ticker: str) -> None:
        super().__init__(
            f"market {ticker!r} is unknown; tickers are case-sensitive, search lists all known ones"
        )
        self.ticker = ticker

    def __str__(self) -> str:
        """Return the message as it is; a KeyError would quote it."""
        return str(self.args[0])


class NotReady(ReadError):  # noqa: N818
    """
    The store has not reached what was asked for; the same read may succeed later.

    Attributes:
        ticker: the market asked for, or None when the whole store is behind.
        partition: the Kafka partition that is behind, or None.
        expected: the offset asked for, or None.
        reached: the next offset that will be consumed, or None.
    """

    def __init__(
        self,
        reason: str,
        *,
        ticker: str | None = None,
        partition: int | None = None,
        expected: int | None = None,
        reached: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.ticker = ticker
        self.partition = partition
        self.expected = expected
        self.reached = reached


class Stale(ReadError):  # noqa: N818
    """
    A book exists but is in doubt, or older than the caller allows.

    Attributes:
        ticker: the market asked for.
        age_ms: milliseconds since the market's last message, or None when its time is unknown.
        max_age_ms: the bound that was exceeded, or None when the book is stale whatever its age.
        reason: why.
    """

    def __init__(self, ticker: str, reason: str, *, age_ms: int | None, max_age_ms: int | None) -> None:
        super().__init__(f"market {ticker!r} is stale: {reason}")
        self.ticker = ticker
        self.reason = reason
        self.age_ms = age_ms
        self.max_age_ms = max_age_ms


class VersionGone(ReadError):  # noqa: N818
    """
    The version or the time asked for is not kept.

    Attributes:
        oldest: the oldest version number that is kept.
        newest: the newest version number.
    """

    def __init__(self, reason: str, *, oldest: int, newest: int) -> None:
        super().__init__(f"{reason}; versions {oldest} to {newest} are kept, the older ones in steps")
        self.oldest = oldest
        self.newest = newest


class StoreError(KalshiBookError):
    """The store is used against its rules, for example by a second writer."""

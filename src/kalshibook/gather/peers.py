"""
What other gatherers on the topic have lost, so that this one can help out.

A store follows one gatherer per market, and changes to another at that one's next snapshot once its
own copy is in doubt. So whoever hears that another has lost something asks its own sockets for
snapshots of the markets concerned, within its budget, unless it has lost the same.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, final

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaException, Message, TopicPartition

from kalshibook.errors import WireError
from kalshibook.feeds.librdkafka import librdkafka_logger
from kalshibook.feeds.options import KafkaOptions
from kalshibook.gather.publishing import consumer_settings
from kalshibook.wire import GapRecord, GathererNotice, NoticeKind, decode_envelope, decode_gap, read_frame

__all__ = ["PeerReader", "PeerWatch", "Wish"]

_log = logging.getLogger(__name__)

_MARK: Final = b'"gatherer_notice"'
_POLL_S: Final = 0.25
_BATCH: Final = 500
_MOST_ASKED: Final = 4


class Wish(msgspec.Struct, frozen=True):
    """Markets that others may need snapshots of."""

    source: str
    """The gatherer that cannot send them."""
    reason: str
    tickers: tuple[str, ...] | None
    """None is all."""


class _Peer:
    __slots__ = ("ask_again_us", "asked", "heard_us", "is_followed")

    def __init__(self) -> None:
        self.heard_us = 0
        self.is_followed = False
        self.asked = 0
        """How often its markets were asked for since it fell silent."""
        self.ask_again_us = 0


@final
class PeerWatch:
    """
    Judges notices and ledger entries of other gatherers. Pure.

    Example:
        >>> watch = PeerWatch("g1", silence_us=10_000_000)
        >>> watch.heard("g2", "alive", scope=False, now_us=0)
        >>> watch.tick(11_000_000)
        [Wish(source='g2', reason='silent for 11 s', tickers=None)]
        >>> watch.tick(12_000_000)
        []
        >>> watch.tick(21_000_000)
        [Wish(source='g2', reason='silent for 21 s', tickers=None)]
    """

    def __init__(self, source: str, *, silence_us: int) -> None:
        """
        Begin without having heard of anybody.

        Args:
            source: this gatherer, of which nothing is wanted.
            silence_us: how long another may say nothing.
        """
        self._source = source
        self._silence_us = silence_us
        self._peers: dict[str, _Peer] = {}

    @property
    def peers(self) -> dict[str, bool]:
        """Other gatherers, and whether they are at work as far as is known."""
        # A copy, because the reader's thread may add one meanwhile.
        return {source: peer.is_followed for source, peer in self._peers.copy().items()}

    def heard(self, source: str, notice: NoticeKind, *, scope: bool, now_us: int) -> Wish | None:
        """
        Take a notice.

        Args:
            source: who says it.
            notice: what.
            scope: whether it is about one connection or market only; then the ledger names the markets.
            now_us: the time.

        Returns:
            What should be asked for, if anything.
        """
        if not source or source == self._source:
            return None
        peer = self._peers.setdefault(source, _Peer())
        was_followed, peer.heard_us, peer.asked = peer.is_followed, now_us, 0
        if notice == "alive":
            peer.is_followed = True
            return None
        if scope:
            return None
        # A gatherer that has just started fills its books by itself; who followed it before, waits.
        peer.is_followed = False
        return Wish(source, notice, None) if was_followed or notice == "stale" else None

    def gap(self, record: GapRecord) -> Wish | None:
        """Take an entry of the ledger."""
        if record.source == self._source or record.healed_us is not None:
            return None
        if record.channel != "orderbook_delta" or not record.markets:
            return None
        return Wish(record.source, record.cause, record.tickers or None)

    def tick(self, now_us: int) -> list[Wish]:
        """
        Return what should be asked for because somebody has fallen silent.

        A store takes a gatherer for dead at a time of its own, and until then its books take no snapshot
        of another. So the same is asked for again, at growing distances, a few times.
        """
        wishes = []
        for source, peer in self._peers.items():
            silent_us = now_us - peer.heard_us
            if peer.is_followed and silent_us > self._silence_us:
                peer.is_followed = False
            elif not 0 < peer.asked < _MOST_ASKED or now_us < peer.ask_again_us:
                continue
            peer.asked += 1
            peer.ask_again_us = now_us + self._silence_us * 2 ** (peer.asked - 1)
            wishes.append(Wish(source, f"silent for {silent_us // 1_000_000} s", None))
        return wishes


@final
class PeerReader:
    """
    Reads what other gatherers say, in a thread, from now on.

    Notices to all are in every partition, so the first one is enough to read.

    Args:
        kafka: where the topic is.
        gap_topic: the ledger's, or empty.
        watch: judges what is read.
        on_wish: called in the thread.
        clock_us: microseconds since whenever: only how long somebody is silent counts.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        gap_topic: str,
        watch: PeerWatch,
        on_wish: Callable[[Wish], None],
        *,
        clock_us: Callable[[], int] = lambda: time.monotonic_ns() // 1_000,
    ) -> None:
        self._kafka = kafka
        self._gap_topic = gap_topic
        self._watch = watch
        self._on_wish = on_wish
        self._clock_us = clock_us
        self._stopping = threading.Event()
        self._reading = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kalshibook-peers", daemon=True)
        self.failures = 0
        """How often the reading had to begin anew."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def wait_reading(self, timeout_s: float) -> bool:
        """Wait until it reads: what is said afterwards is heard."""
        return self._reading.wait(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._read()
            except KafkaException as error:
                self.failures += 1
                _log.warning("other gatherers cannot be heard: %s", error)
                self._stopping.wait(1)

    def _read(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._kafka.bootstrap_servers,
                "group.id": "kalshibook-peers",
                "enable.auto.commit": False,
                "auto.offset.reset": "latest",
                **consumer_settings(self._kafka.extra),
                "logger": librdkafka_logger(),
            }
        )
        try:
            places = [TopicPartition(self._kafka.topic, 0, OFFSET_END)]
            if self._gap_topic:
                found = consumer.list_topics(timeout=10).topics.get(self._gap_topic)
                count = 0 if found is None else len(found.partitions)
                places += [TopicPartition(self._gap_topic, number, OFFSET_END) for number in range(count)]
            ends = []
            for place in places:
                _, end = consumer.get_watermark_offsets(place, timeout=10)
                ends.append(TopicPartition(place.topic, place.partition, end))
            consumer.assign(ends)
            self._reading.set()
            while not self._stopping.is_set():
                for message in consumer.consume(_BATCH, _POLL_S):
                    self._take(message)
                for wish in self._watch.tick(self._clock_us()):
                    self._on_wish(wish)
        finally:
            consumer.close()

    def _take(self, message: Message) -> None:
        value = message.value()
        if message.error() is not None or value is None:
            return
        try:
            wish = self._wish_of(message.topic() or "", value)
        except WireError as error:
            _log.debug("a record of another gatherer cannot be read: %s", error)
            return
        if wish is not None:
            self._on_wish(wish)

    def _wish_of(self, topic: str, value: bytes) -> Wish | None:
        if topic == self._gap_topic:
            return self._watch.gap(decode_gap(value))
        # All records of the partition pass here; few are notices.
        if _MARK not in value[:400]:
            return None
        envelope = decode_envelope(value)
        event = read_frame(envelope.payload)
        if not isinstance(event, GathererNotice):
            return None
        scope = envelope.connection is not None or bool(event.ticker)
        return self._watch.heard(envelope.source, event.notice, scope=scope, now_us=self._clock_us())

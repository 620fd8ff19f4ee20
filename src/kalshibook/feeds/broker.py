"""
A Kafka broker inside this process, for demos and tests: librdkafka's mock cluster.

The confluent-kafka wheel carries it, so nothing has to be installed or started. It speaks the
real protocol on real sockets of 127.0.0.1, and other processes may connect. Its interface is not
part of confluent-kafka's Python API; it is reached by ctypes in the very library that
confluent-kafka has loaded (librdkafka's `rdkafka_mock.h`, which calls itself experimental).
"""

import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, final

from confluent_kafka import KafkaError, cimpl

from kalshibook.errors import FeedError

__all__ = ["EmbeddedBroker"]

_POINTER: Final = ctypes.c_void_p
_TEXT: Final = ctypes.c_char_p
_SIGNATURES: Final[Mapping[str, tuple[Any, ...]]] = {
    "rd_kafka_conf_new": (_POINTER,),
    "rd_kafka_conf_set": (ctypes.c_int, _POINTER, _TEXT, _TEXT, _TEXT, ctypes.c_size_t),
    "rd_kafka_conf_destroy": (None, _POINTER),
    "rd_kafka_new": (_POINTER, ctypes.c_int, _POINTER, _TEXT, ctypes.c_size_t),
    "rd_kafka_destroy": (None, _POINTER),
    "rd_kafka_mock_cluster_new": (_POINTER, _POINTER, ctypes.c_int),
    "rd_kafka_mock_cluster_destroy": (None, _POINTER),
    "rd_kafka_mock_cluster_bootstraps": (_TEXT, _POINTER),
    "rd_kafka_mock_topic_create": (ctypes.c_int, _POINTER, _TEXT, ctypes.c_int, ctypes.c_int),
    "rd_kafka_mock_topic_delete": (ctypes.c_int, _POINTER, _TEXT),
    "rd_kafka_mock_broker_set_down": (ctypes.c_int, _POINTER, ctypes.c_int32),
    "rd_kafka_mock_broker_set_up": (ctypes.c_int, _POINTER, ctypes.c_int32),
    "rd_kafka_mock_broker_set_rtt": (ctypes.c_int, _POINTER, ctypes.c_int32, ctypes.c_int),
    "rd_kafka_mock_push_request_errors_array": (None, _POINTER, ctypes.c_int16, ctypes.c_size_t, _POINTER),
    "rd_kafka_mock_clear_request_errors": (None, _POINTER, ctypes.c_int16),
}
"""Function name: result type, then argument types. Undeclared, ctypes would cut pointers to 32 bits."""

_PRODUCER: Final = 0  # the mock cluster hangs on a client handle, of whichever type
_MOST_REPLICAS: Final = 3


@final
class EmbeddedBroker:
    """
    A Kafka cluster in this process that starts in a few milliseconds and forgets everything at its end.

    It runs from its construction until `close`, the end of the ``with`` block or the end of the
    process. `str` gives its address.

    What differs from a real Kafka:

    * No offsets by time: `offsets_for_times` answers -1 (the end) for every time, so a rewind by
      time has to notice that and start at the beginning.
    * About 5 MiB are kept per partition, as compressed by the producer; older batches are evicted
      without regard to who has read them. A fast player waits for its consumer.
    * A fetch that waits is not woken by new data: without a small ``fetch.wait.max.ms`` every quiet
      spell ends in half a second of latency. Use `CONSUMER_SETTINGS`.
    * Partitions cannot be added to a topic; `delete_topic` and `create_topic` replace it, and its
      records are gone. A client that asks for an unknown topic creates it, with 4 partitions,
      unless its ``allow.auto.create.topics`` is false (a consumer's default).
    * Admin requests (creating topics, deleting records) time out; use the methods here.
    * A group's rejoin waits for the session of a member that left; `assign` does not.
    * Aborted transactions stay visible, nothing is authenticated or encrypted.

    The broker does not survive `os.fork` in the child; start it in each process that needs one.

    Example:
        >>> with EmbeddedBroker({"market-data-all": 4}) as broker:
        ...     print(str(broker).startswith("127.0.0.1:"))
        True
    """

    CONSUMER_SETTINGS: ClassVar[Mapping[str, str | int]] = MappingProxyType(
        {
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 20,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
        }
    )
    """librdkafka settings for a consumer: latency of milliseconds, and a quick return after `down`."""

    PRODUCER_SETTINGS: ClassVar[Mapping[str, str | int]] = MappingProxyType(
        {
            "compression.type": "zstd",
            "linger.ms": 5,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "retry.backoff.ms": 50,
        }
    )
    """librdkafka settings for a producer: compressed, since compressed bytes count in the 5 MiB."""

    def __init__(self, topics: Mapping[str, int] | None = None, *, brokers: int = 1) -> None:
        """
        Start the cluster and create its topics.

        Args:
            topics: topic name to number of partitions.
            brokers: how many brokers; their ids are 1, 2, ...

        Raises:
            FeedError: the library has no mock cluster, or a topic cannot be created.
        """
        if brokers < 1:
            raise FeedError(f"an embedded cluster of {brokers} brokers is impossible; at least 1 is needed")
        self._library = _load(cimpl.__file__)
        self._replicas = min(brokers, _MOST_REPLICAS)
        # A call into a destroyed cluster is a crash of the process, so every call holds this lock.
        self._lock = threading.Lock()
        handle = _new_handle(self._library)
        self._cluster = self._library.rd_kafka_mock_cluster_new(handle, brokers)
        if not self._cluster:
            self._library.rd_kafka_destroy(handle)
            raise FeedError("librdkafka cannot open the sockets of its mock cluster on 127.0.0.1")
        # Also runs at the end of the process, where sockets and threads would otherwise hang on.
        self._finalizer = weakref.finalize(self, _destroy, self._library, self._cluster, handle)
        self.bootstrap_servers: Final[str] = self._library.rd_kafka_mock_cluster_bootstraps(
            self._cluster
        ).decode()
        """Addresses for ``bootstrap.servers``, of every broker, separated by commas."""
        try:
            for name, partitions in (topics or {}).items():
                self.create_topic(name, partitions)
        except FeedError:
            self.close()
            raise

    def create_topic(self, name: str, partitions: int = 4) -> None:
        """
        Create a topic whose partitions are led by the brokers in turn.

        Raises:
            FeedError: it exists already, or the number of partitions is below 1.
        """
        if partitions < 1:
            raise FeedError(
                f"topic {name!r} with {partitions} partitions is impossible; at least 1 is needed"
            )
        self._control("rd_kafka_mock_topic_create", name.encode(), partitions, self._replicas)

    def delete_topic(self, name: str) -> None:
        """
        Delete a topic with its records.

        Raises:
            FeedError: there is no such topic.
        """
        self._control("rd_kafka_mock_topic_delete", name.encode())

    def down(self, broker_id: int = 1) -> None:
        """
        Cut all connections of a broker and refuse new ones; its partitions keep it as their leader.

        Args:
            broker_id: 1 is the first broker; -1 stands for all.

        Raises:
            FeedError: there is no such broker.
        """
        self._control("rd_kafka_mock_broker_set_down", broker_id)

    def up(self, broker_id: int = 1) -> None:
        """
        Let a broker accept connections again; its records are still there.

        Args:
            broker_id: 1 is the first broker; -1 stands for all.

        Raises:
            FeedError: there is no such broker.
        """
        self._control("rd_kafka_mock_broker_set_up", broker_id)

    def round_trip_ms(self, broker_id: int, milliseconds: int) -> None:
        """
        Delay every answer of a broker.

        Args:
            broker_id: 1 is the first broker; -1 stands for all.
            milliseconds: the delay; 0 takes it back.

        Raises:
            FeedError: there is no such broker.
        """
        self._control("rd_kafka_mock_broker_set_rtt", broker_id, milliseconds)

    def push_errors(self, api_key: int, codes: Sequence[int]) -> None:
        """
        Let the next requests of one kind fail, one per code, then work again.

        Args:
            api_key: the kind by Kafka's protocol: 0 produce, 1 fetch, 2 list offsets, 3 metadata.
            codes: Kafka's error codes, such as `KafkaError.NOT_LEADER_FOR_PARTITION`;
                `KafkaError._TRANSPORT` cuts the connection instead of answering.
        """
        array = (ctypes.c_int * len(codes))(*codes)
        self._call("rd_kafka_mock_push_request_errors_array", api_key, len(codes), array)

    def clear_errors(self, api_key: int) -> None:
        """Forget the pushed errors of this kind of request that nobody has met yet."""
        self._call("rd_kafka_mock_clear_request_errors", api_key)

    def close(self) -> None:
        """Cut all connections, end the cluster's thread and drop all records; a second call does nothing."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self.bootstrap_servers

    def __repr__(self) -> str:
        state = "running" if self._finalizer.alive else "closed"
        return f"<EmbeddedBroker {self.bootstrap_servers} {state}>"

    def _control(self, function: str, *arguments: Any) -> None:
        code = self._call(function, *arguments)
        if code != KafkaError.NO_ERROR:
            raise FeedError(f"{function}{arguments} of the embedded broker failed: {KafkaError(code).str()}")

    def _call(self, function: str, *arguments: Any) -> Any:
        with self._lock:
            if not self._finalizer.alive:
                raise FeedError(f"the embedded broker {self.bootstrap_servers} is closed")
            return getattr(self._library, function)(self._cluster, *arguments)


def _load(path: str) -> ctypes.CDLL:
    # The extension module is opened instead of a librdkafka found by its name: symbols are looked up
    # in what it is linked with, so this is the library of the clients whatever the wheel calls it.
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise FeedError(
            f"the embedded broker needs confluent-kafka's library, looked for as {path}: {error}"
        ) from error
    for name, (result, *arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise FeedError(
                f"the embedded broker needs the function {name}, looked for in {path} and in the librdkafka"
                " that it is linked with; wheels of confluent-kafka 2.15 and newer have it"
            ) from None
        function.restype, function.argtypes = result, arguments
    return library


def _new_handle(library: ctypes.CDLL) -> Any:
    reason = ctypes.create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    # Without it librdkafka warns on standard error that this handle has no broker to connect to.
    library.rd_kafka_conf_set(configuration, b"log_level", b"3", reason, len(reason))
    handle = library.rd_kafka_new(_PRODUCER, configuration, reason, len(reason))
    if not handle:
        library.rd_kafka_conf_destroy(configuration)
        raise FeedError(f"librdkafka cannot start the embedded broker: {reason.value.decode()}")
    return handle


def _destroy(library: ctypes.CDLL, cluster: Any, handle: Any) -> None:
    library.rd_kafka_mock_cluster_destroy(cluster)
    library.rd_kafka_destroy(handle)

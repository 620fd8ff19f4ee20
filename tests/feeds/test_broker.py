import gc
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition, cimpl

from kalshibook.errors import FeedError
from kalshibook.feeds import broker as broker_module
from kalshibook.feeds.broker import EmbeddedBroker, _destroy, _load

TIMEOUT = 20
PRODUCE = 0


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker with one topic of four partitions."""
    with EmbeddedBroker({"books": 4}) as broker:
        yield broker


def producer(broker: EmbeddedBroker) -> Producer:
    """Build a quiet producer."""
    return Producer({"bootstrap.servers": str(broker), "log_level": 0, **EmbeddedBroker.PRODUCER_SETTINGS})


def consumer(broker: EmbeddedBroker) -> Consumer:
    """Build a quiet consumer that says when a partition is at its end."""
    settings = {
        "bootstrap.servers": str(broker),
        "group.id": "test",
        "log_level": 0,
        "enable.partition.eof": True,
    }
    return Consumer({**settings, **EmbeddedBroker.CONSUMER_SETTINGS})


def produce(broker: EmbeddedBroker, values: list[bytes], partition: int = 0) -> None:
    """Send records and wait until the broker has all of them."""
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    client = producer(broker)
    for value in values:
        client.produce("books", value, partition=partition, on_delivery=delivered)
    assert 0 == client.flush(TIMEOUT)
    assert [] == failed


def read_all(broker: EmbeddedBroker, partition: int = 0) -> list[bytes]:
    """Return what one partition holds, from its beginning to its end."""
    values: list[bytes] = []
    with consumer(broker) as client:
        low, _ = client.get_watermark_offsets(TopicPartition("books", partition), timeout=TIMEOUT)
        client.assign([TopicPartition("books", partition, low)])
        while (message := client.poll(TIMEOUT)) is not None:
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return values
            assert error is None, error
            value = message.value()
            assert value is not None
            values.append(value)
    pytest.fail(f"partition {partition} never came to its end")


def partitions(broker: EmbeddedBroker, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions."""
    return sorted(producer(broker).list_topics(topic, timeout=TIMEOUT).topics[topic].partitions)


def accepts_connections(address: str) -> bool:
    """Tell whether somebody listens there."""
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
    except ConnectionRefusedError:
        return False
    return True


def test_records_come_back_in_order(broker: EmbeddedBroker) -> None:
    """What is produced to a partition is consumed from it, in order, with nothing in the others."""
    values = [b"%d" % number for number in range(1_000)]
    produce(broker, values, partition=2)
    assert values == read_all(broker, partition=2)
    assert [] == read_all(broker, partition=1)


def test_address_is_printed(broker: EmbeddedBroker) -> None:
    """`str` gives what a client needs as its bootstrap servers."""
    assert broker.bootstrap_servers == str(broker)
    assert accepts_connections(str(broker))
    assert f"<EmbeddedBroker {broker} running>" == repr(broker)


def test_topics_have_the_partitions_asked_for() -> None:
    """Topics are created with their numbers of partitions, at the start and later."""
    with EmbeddedBroker({"twelve": 12, "one": 1}) as broker:
        broker.create_topic("later", 3)
        assert list(range(12)) == partitions(broker, "twelve")
        assert [0] == partitions(broker, "one")
        assert [0, 1, 2] == partitions(broker, "later")


def test_brokers_share_the_partitions() -> None:
    """A cluster of three has three addresses, and each broker leads a part of the topic."""
    # Leaders are drawn: of few partitions one broker may get none.
    with EmbeddedBroker({"books": 128}, brokers=3) as broker:
        topic = producer(broker).list_topics("books", timeout=TIMEOUT).topics["books"]
        assert 3 == len(str(broker).split(","))
        assert {1, 2, 3} == {partition.leader for partition in topic.partitions.values()}


def test_another_process_connects(broker: EmbeddedBroker) -> None:
    """A record that another process produces is consumed in this one."""
    script = (
        "import sys; from confluent_kafka import Producer;"
        "p = Producer({'bootstrap.servers': sys.argv[1]}); p.produce('books', b'hello', partition=0);"
        f"sys.exit(p.flush({TIMEOUT}))"
    )
    subprocess.run([sys.executable, "-c", script, str(broker)], check=True, timeout=2 * TIMEOUT)
    assert [b"hello"] == read_all(broker)


def test_down_and_up_again(broker: EmbeddedBroker) -> None:
    """A record sent while the broker is down arrives once it is up, and older ones are still there."""
    produce(broker, [b"before"])
    noticed = threading.Event()

    def on_error(error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            noticed.set()

    client = Producer({"bootstrap.servers": str(broker), "log_level": 0, "error_cb": on_error})
    broker.down()
    client.produce("books", b"during", partition=0)
    deadline = time.monotonic() + TIMEOUT
    while not noticed.is_set() and time.monotonic() < deadline:
        client.poll(0.1)
    assert noticed.is_set()
    assert 1 == len(client)
    broker.up()
    assert 0 == client.flush(TIMEOUT)
    assert [b"before", b"during"] == read_all(broker)


def test_pushed_errors_meet_the_next_requests(broker: EmbeddedBroker) -> None:
    """Two pushed errors fail two attempts, and the producer's third succeeds."""
    broker.push_errors(PRODUCE, [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._TRANSPORT])
    produce(broker, [b"third time lucky"])
    assert [b"third time lucky"] == read_all(broker)


def test_pushed_error_reaches_the_client(broker: EmbeddedBroker) -> None:
    """An error that a client does not retry is delivered to its callback, once."""
    errors: list[KafkaError | None] = []
    client = producer(broker)
    broker.push_errors(PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE])
    for value in (b"refused", b"accepted"):
        client.produce("books", value, partition=0, on_delivery=lambda error, _: errors.append(error))
        assert 0 == client.flush(TIMEOUT)
    codes = [None if error is None else error.code() for error in errors]
    assert [KafkaError.MSG_SIZE_TOO_LARGE, None] == codes
    assert [b"accepted"] == read_all(broker)


def test_cleared_errors_meet_nobody(broker: EmbeddedBroker) -> None:
    """After `clear_errors` the next request succeeds at once."""
    broker.push_errors(PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE])
    broker.clear_errors(PRODUCE)
    produce(broker, [b"fine"])
    assert [b"fine"] == read_all(broker)


def test_round_trip_delays_answers(broker: EmbeddedBroker) -> None:
    """An answer does not come before the delay is over, and comes without it again."""
    client = producer(broker)
    client.list_topics(timeout=TIMEOUT)
    broker.round_trip_ms(1, 200)
    with pytest.raises(KafkaException):
        client.list_topics(timeout=0.05)
    broker.round_trip_ms(1, 0)
    assert "books" in client.list_topics(timeout=TIMEOUT).topics


def test_offsets_by_time_are_never_found(broker: EmbeddedBroker) -> None:
    """The documented trap holds: a rewind by time is answered with -1, although the record is newer."""
    produce(broker, [b"new"])
    with consumer(broker) as client:
        found = client.offsets_for_times([TopicPartition("books", 0, 1_000)], timeout=TIMEOUT)
    assert [-1] == [place.offset for place in found]


def test_old_batches_are_evicted(broker: EmbeddedBroker) -> None:
    """The documented trap holds: beyond about 5 MiB a partition loses its oldest batches."""
    incompressible = random.Random(1).randbytes(900_000)
    for number in range(8):
        produce(broker, [bytes([number]) + incompressible])
    assert [3, 4, 5, 6, 7] == [value[0] for value in read_all(broker)]


def test_topic_is_replaced_not_grown(broker: EmbeddedBroker) -> None:
    """A topic that exists cannot be created with more partitions; deleted and created again it is empty."""
    produce(broker, [b"lost"])
    with pytest.raises(FeedError, match="already exists"):
        broker.create_topic("books", 6)
    broker.delete_topic("books")
    broker.create_topic("books", 6)
    assert [0, 1, 2, 3, 4, 5] == partitions(broker, "books")
    assert [] == read_all(broker)


def test_mistakes_are_named(broker: EmbeddedBroker) -> None:
    """Impossible wishes raise a FeedError that says what was asked."""
    with pytest.raises(FeedError, match="'none' with 0 partitions"):
        broker.create_topic("none", 0)
    with pytest.raises(FeedError, match="0 brokers"):
        EmbeddedBroker(brokers=0)
    with pytest.raises(FeedError, match=r"broker_set_down\(9,\)"):
        broker.down(9)
    with pytest.raises(FeedError, match="topic_delete"):
        broker.delete_topic("unheard-of")


def test_failed_start_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constructor that cannot create its topics closes the cluster that it started."""
    closed = []

    def destroy(*arguments: Any) -> None:
        closed.append(arguments)
        _destroy(*arguments)

    monkeypatch.setattr(broker_module, "_destroy", destroy)
    with pytest.raises(FeedError, match="'bad' with 0 partitions"):
        EmbeddedBroker({"good": 1, "bad": 0})
    assert 1 == len(closed)


def test_closed_broker_refuses(broker: EmbeddedBroker) -> None:
    """After `close`, which may be called twice, nobody connects and every control is refused."""
    broker.close()
    broker.close()
    assert not accepts_connections(str(broker))
    assert repr(broker).endswith("closed>")
    with pytest.raises(FeedError, match="is closed"):
        broker.up()


def test_forgotten_broker_is_closed() -> None:
    """A broker that nobody refers to any more gives its port back."""
    broker = EmbeddedBroker()
    address = str(broker)
    del broker
    gc.collect()
    assert not accepts_connections(address)


def test_unclosed_broker_does_not_hold_up_the_exit() -> None:
    """A process that never closes its broker, with clients connected, ends quietly with status 0."""
    script = (
        "from confluent_kafka import Producer; from kalshibook.feeds.broker import EmbeddedBroker;"
        "broker = EmbeddedBroker({'books': 2});"
        "p = Producer({'bootstrap.servers': str(broker), 'log_level': 0});"
        f"p.produce('books', b'x'); print(p.flush({TIMEOUT}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=2 * TIMEOUT, check=False
    )
    assert (0, "0\n", "") == (ended.returncode, ended.stdout, ended.stderr)


def test_closing_races_with_controls() -> None:
    """Controls in other threads while the broker closes are done or refused; the process survives."""
    broker = EmbeddedBroker({"books": 2})
    refused = []
    started = threading.Barrier(5)

    def disturb() -> None:
        started.wait(TIMEOUT)
        try:
            while True:
                broker.down()
                broker.up()
        except FeedError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=disturb) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(TIMEOUT)
    broker.close()
    for thread in threads:
        thread.join(TIMEOUT)
    assert [f"the embedded broker {broker} is closed"] * 4 == refused


def test_missing_library_is_named() -> None:
    """A library that is not there is named with its path."""
    with pytest.raises(FeedError, match="looked for as /nowhere/cimpl"):
        _load("/nowhere/cimpl.so")


def test_library_without_mock_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without the mock cluster's functions is named with the first function it lacks."""
    import _socket  # an extension module that has nothing to do with Kafka

    monkeypatch.setattr(cimpl, "__file__", _socket.__file__)
    with pytest.raises(FeedError, match=r"needs the function rd_kafka_conf_new, looked for in .*_socket"):
        EmbeddedBroker()

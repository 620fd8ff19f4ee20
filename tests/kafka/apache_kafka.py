"""
Apache Kafka from its Maven jars: one KRaft node on 127.0.0.1 in a folder of its own.

Java 17 and Maven are needed; the jars (45 MB) are resolved once per checkout.
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

from confluent_kafka import KafkaException, Producer

__all__ = ["ApacheKafka", "KafkaUnavailable", "why_unavailable"]

VERSION: Final = "4.3.1"
JAVA_AT_LEAST: Final = 17
JARS: Final = Path(__file__).parents[2] / ".nox" / f"apache-kafka-{VERSION}"
START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 30

POM: Final = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>kalshibook</groupId><artifactId>broker-suite</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""

# Small and quick to start; the suite waits for every second that a restart takes.
JAVA_OPTIONS: Final = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)

# A killed node may come back only when the controller has forgotten it, after the session's timeout.
PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=CONTROLLER://127.0.0.1:{controller},{listeners}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TLS:SSL,SASL:SASL_SSL
log.dirs={folder}/data
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=500
log.initial.task.delay.ms=500
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=4194304
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS
ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/server.p12
ssl.keystore.password={password}
ssl.key.password={password}
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}";
listener.name.sasl.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class KafkaUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """Apache Kafka cannot be had or does not start here; the message says why."""


@final
class ApacheKafka:
    """
    A broker that can be stopped, killed and started again on the same data and the same ports.

    It listens in plain text, with TLS, and with TLS and SASL (PLAIN and SCRAM-SHA-256). Who comes
    without SASL may do everything; `USER` may do what no ACL forbids.
    """

    USER: Final = "reader"
    PASSWORD: Final = "correct-horse"

    def __init__(self, folder: Path) -> None:
        """
        Prepare a node whose data and certificates lie in `folder`; `start` runs it.

        Raises:
            KafkaUnavailable: Java or Maven is missing, or the jars cannot be resolved.
        """
        reason = why_unavailable()
        if reason is not None:
            raise KafkaUnavailable(reason)
        self.folder: Final = folder
        self.log: Final = folder / "kafka.log"
        self.ca_file: Final = folder / "ca.pem"
        plain, tls, sasl, controller = _free_ports(4)
        self.bootstrap_servers: Final = f"127.0.0.1:{plain}"
        self.tls_servers: Final = f"127.0.0.1:{tls}"
        self.sasl_servers: Final = f"127.0.0.1:{sasl}"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._class_path = f"{_jars()}/*"
        self._properties = folder / "server.properties"
        listeners = (
            f"PLAINTEXT://{self.bootstrap_servers},TLS://{self.tls_servers},SASL://{self.sasl_servers}"
        )
        self._properties.write_text(
            PROPERTIES.format(
                controller=controller,
                listeners=listeners,
                folder=folder,
                user=self.USER,
                password=self.PASSWORD,
            )
        )
        self._make_certificate()
        self._format()

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    def start(self) -> None:
        """
        Run the node and return when it answers.

        Raises:
            KafkaUnavailable: it ended or did not answer in time, with the end of its log.
        """
        assert self._process is None, "it is running"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                # Ctrl-C in the terminal is for the tests, which then stop the broker in good order.
                start_new_session=True,
            )
        # A test run that is cut off runs no clean-up. Its end closes this pipe, whatever its cause.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -9 "$1"', "sh", str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._wait_until_it_answers(self._process)

    def stop(self) -> None:
        """End the node in good order; one that is not running is no error."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the node as a power cut would (kill -9)."""
        self._end(kill=True)

    def freeze(self) -> None:
        """Let the node answer nothing, with its connections open, as a stalled machine would."""
        assert self._process is not None, "it is not running"
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen node go on."""
        assert self._process is not None, "it is not running"
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What lies in the folder is thrown away: nothing is won by an orderly end.
        self.kill()

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._dismiss_guard()
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    def _dismiss_guard(self) -> None:
        # Before the node is ended: after that its number may be another process's.
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        client = Producer({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.list_topics(timeout=1)
            except KafkaException:
                continue
            return
        self.kill()
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        raise KafkaUnavailable(f"Apache Kafka did not start:\n{tail}")

    def _java(self, main: str, *arguments: str) -> list[str]:
        return [_java_tool("java"), *JAVA_OPTIONS, "-cp", self._class_path, main, *arguments]

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        scram = f"SCRAM-SHA-256=[name={self.USER},password={self.PASSWORD}]"
        _run(
            *self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"),
            *("--config", str(self._properties), "--add-scram", scram),
        )

    def _make_certificate(self) -> None:
        store = [
            "-keystore",
            str(self.folder / "server.p12"),
            "-storepass",
            self.PASSWORD,
            "-alias",
            "server",
        ]
        names = ["-dname", "CN=localhost", "-ext", "SAN=ip:127.0.0.1,dns:localhost"]
        tool = _java_tool("keytool")
        _run(tool, "-genkeypair", *store, "-storetype", "PKCS12", "-keyalg", "RSA", "-validity", "2", *names)
        _run(tool, "-exportcert", "-rfc", *store, "-file", str(self.ca_file))


def why_unavailable() -> str | None:
    """Return what is missing to run Apache Kafka here, or None when nothing is."""
    if shutil.which(_java_tool("java")) is None:
        return f"Apache Kafka needs Java {JAVA_AT_LEAST}: no java on the PATH and no JAVA_HOME"
    version = subprocess.run(
        [_java_tool("java"), "-version"], capture_output=True, text=True, check=False
    ).stderr
    major = version.partition('"')[2].partition(".")[0].partition('"')[0]
    if not major.isdigit() or int(major) < JAVA_AT_LEAST:
        return f"Apache Kafka needs Java {JAVA_AT_LEAST}, found: {version.splitlines()[:1]}"
    if not JARS.is_dir() and shutil.which("mvn") is None:
        return "Apache Kafka's jars are resolved by Maven: no mvn on the PATH"
    return None


def _java_tool(name: str) -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / name) if home else name


def _jars() -> Path:
    if JARS.is_dir():
        return JARS
    JARS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=JARS.parent) as folder:
        (Path(folder) / "pom.xml").write_text(POM)
        resolved = Path(folder) / "jars"
        _run(
            *("mvn", "--batch-mode", "--quiet", "--file", folder, "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={resolved}"),
        )
        # Renamed when complete, so that an interrupted download is never taken for the jars.
        resolved.rename(JARS)
    return JARS


def _run(*command: str) -> None:
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise KafkaUnavailable(
            f"{' '.join(command[:1])} failed:\n{ended.stdout[-2_000:]}{ended.stderr[-2_000:]}"
        )


def _free_ports(count: int) -> list[int]:
    # All are held until the last is found, or the same port could come twice.
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in sockets]

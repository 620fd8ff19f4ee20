"""
Settings: one frozen value from defaults, a TOML file, the environment and the command line.

Later sources win, one field at a time. A setting has one path, ``section.field``, and one
spelling per source:

* TOML: ``[kafka]`` and ``topic = "market-data-all"``;
* environment: ``KALSHIBOOK_KAFKA_TOPIC``;
* command line: ``--set kafka.topic=market-data-all``.

Lists are comma-separated outside TOML. A field that is a table, such as ``kafka.extra``, is set key
by key: ``--set kafka.extra.sasl.password=…``, ``KALSHIBOOK_KAFKA_EXTRA_SASL_PASSWORD`` (a single
underscore is a dot, a double one an underscore). Text is taken as it stands: nothing in it is
expanded, trimmed or unquoted.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.production_options import DedupOptions, ExportOptions
from kalshibook.errors import SettingsError
from kalshibook.feeds.options import KafkaOptions, is_secret
from kalshibook.feeds.snapshots import SnapshotOptions
from kalshibook.gather.options import GatherOptions
from kalshibook.http.options import HttpOptions
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.store.options import StoreOptions
from kalshibook.stream.options import StreamOptions

__all__ = ["Argument", "Loaded", "LogOptions", "Row", "ServerOptions", "Settings", "load_settings"]

PREFIX: Final = "KALSHIBOOK_"
CONFIG_VARIABLE: Final = "KALSHIBOOK_CONFIG"
CONFIG_FILE: Final = "kalshibook.toml"
MASK: Final = "***"


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `kalshibook serve` runs."""

    feed: str = "kafka"
    """Name of the feed: an entry point of the group ``kalshibook.feeds``."""
    feed_options: dict[str, str | int | bool] = {}
    """Options of a feed other than ``kafka``, which has a section: ``path`` of ``recording``, for example."""
    switch_interval_us: int = 500
    """
    The interpreter's thread switch interval while serving, in microseconds; 0 leaves it alone.

    At Python's own 5,000 a busy feed thread delays each answer by milliseconds.
    """

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 0 <= self.switch_interval_us <= 1_000_000:
            raise SettingsError(
                f"server.switch_interval_us is {self.switch_interval_us}; it is 0 to 1,000,000"
            )


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is written."""
    format: Literal["auto", "console", "json"] = "auto"
    """``auto`` is ``console`` on a terminal and ``json``, one object per line, elsewhere."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set; each section belongs to the part that it is named after."""

    store: StoreOptions = msgspec.field(default_factory=StoreOptions)
    kafka: KafkaOptions = msgspec.field(default_factory=KafkaOptions)
    snapshots: SnapshotOptions = msgspec.field(default_factory=SnapshotOptions)
    http: HttpOptions = msgspec.field(default_factory=HttpOptions)
    stream: StreamOptions = msgspec.field(default_factory=StreamOptions)
    server: ServerOptions = msgspec.field(default_factory=ServerOptions)
    gather: GatherOptions = msgspec.field(default_factory=GatherOptions)
    archive: ArchiveOptions = msgspec.field(default_factory=ArchiveOptions)
    dedup: DedupOptions = msgspec.field(default_factory=DedupOptions)
    export: ExportOptions = msgspec.field(default_factory=ExportOptions)
    simulator: SimulatorOptions = msgspec.field(default_factory=SimulatorOptions)
    log: LogOptions = msgspec.field(default_factory=LogOptions)


class Argument(NamedTuple):
    """One setting given on the command line."""

    path: str
    """``section.field``."""
    value: object
    flag: str
    """How it was given, for messages: ``--set`` or an option of its own."""

    @classmethod
    def parse(cls, text: str) -> "Argument":
        """
        Read ``section.field=value``.

        Raises:
            SettingsError: there is no ``=``.
        """
        path, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set {text!r} has no '='; write --set section.field=value")
        return cls(path.strip(), value, "--set")


class Row(NamedTuple):
    """One line of what `kalshibook settings` prints."""

    path: str
    value: str
    """As text; a secret is masked."""
    origin: str
    """``default``, or the file, the variable or the option that gave the value."""


class Loaded(NamedTuple):
    """Settings, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Path to origin; a path that is missing here has its default."""

    def rows(self) -> list[Row]:
        """Return every setting as text, in the order of the sections, secrets masked."""
        return [
            Row(path, MASK if value is not None and is_secret(path) else _text(value), self.origin(path))
            for path, value in _values(self.settings)
        ]

    def origin(self, path: str) -> str:
        """Tell where the setting at `path` came from."""
        return self.origins.get(path, "default")


class _Found(NamedTuple):
    value: object
    origin: str


class _Field(NamedTuple):
    section: str
    name: str
    type: Any
    is_table: bool
    is_list: bool

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.section}_{self.name}".upper()


_LISTS: Final = (
    msgspec.inspect.ListType,
    msgspec.inspect.SetType,
    msgspec.inspect.FrozenSetType,
    msgspec.inspect.VarTupleType,
    msgspec.inspect.TupleType,
)


def _fields() -> dict[str, _Field]:
    fields: dict[str, _Field] = {}
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.type):
            kind = msgspec.inspect.type_info(field.type)
            kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
            is_table = any(isinstance(one, msgspec.inspect.DictType) for one in kinds)
            is_list = any(isinstance(one, _LISTS) for one in kinds)
            found = _Field(section.name, field.name, field.type, is_table, is_list)
            fields[found.path] = found
    return fields


_FIELDS: Final = _fields()
_SECTIONS: Final = {field.name: field.type for field in msgspec.structs.fields(Settings)}
_VARIABLES: Final = {field.variable: field for field in _FIELDS.values()}


def load_settings(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: Sequence[Argument] = (),
) -> Loaded:
    """
    Read all sources and build the settings.

    Args:
        config: the TOML file; else the one that ``KALSHIBOOK_CONFIG`` names; else
            ``kalshibook.toml`` in the working directory, if it is there.
        environ: the environment; that of the process unless given.
        arguments: what the command line sets.

    Raises:
        SettingsError: a key is unknown, a value does not fit, or a file cannot be read; the message
            says where it stands.
    """
    variables = os.environ if environ is None else environ
    found: dict[str, _Found] = {}
    found |= _from_file(_config_file(config, variables))
    found |= _from_environment(variables)
    found |= _from_arguments(arguments)
    return Loaded(_build(found), {path: one.origin for path, one in found.items()})


def _config_file(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    if config is not None:
        return config
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    usual = Path(CONFIG_FILE)
    return usual if usual.is_file() else None


def _from_file(file: Path | None) -> dict[str, _Found]:
    if file is None:
        return {}
    origin = f"file {file}"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file} is not TOML: {error}") from None
    found: dict[str, _Found] = {}
    for section, values in content.items():
        if section not in _SECTIONS:
            raise SettingsError(_unknown("section", section, _SECTIONS, origin))
        if not isinstance(values, dict):
            raise SettingsError(f"[{section}] is a section, not a value ({origin})")
        for path, value in _leaves(section, values):
            if value == {} and path in _FIELDS and _FIELDS[path].is_table:
                continue
            _field_of(path, origin)
            found[path] = _Found(value, origin)
    return found


def _leaves(prefix: str, values: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    """Yield path and value; an unquoted dotted key in TOML makes tables, and means the same here."""
    for key, value in values.items():
        path = f"{prefix}.{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(path, value)
        else:
            yield path, value


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable != CONFIG_VARIABLE:
            found[_path_of_variable(variable)] = _Found(environ[variable], f"environment {variable}")
    return found


def _path_of_variable(variable: str) -> str:
    field = _VARIABLES.get(variable)
    if field is not None and not field.is_table:
        return field.path
    for name, table in _VARIABLES.items():
        if table.is_table and variable.startswith(f"{name}_"):
            key = variable.removeprefix(f"{name}_").lower()
            return f"{table.path}." + "_".join(part.replace("_", ".") for part in key.split("__"))
    if field is not None:
        raise SettingsError(f"{variable} names a table; set one key of it, as in {variable}_SOME_KEY")
    raise SettingsError(_unknown("environment variable", variable, _VARIABLES, "environment"))


def _from_arguments(arguments: Iterable[Argument]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for path, value, flag in arguments:
        origin = f"command line {flag}"
        _field_of(path, origin)
        found[path] = _Found(value, origin)
    return found


def _field_of(path: str, origin: str) -> _Field:
    field = _FIELDS.get(path)
    if field is not None and not field.is_table:
        return field
    for table in _FIELDS.values():
        if table.is_table and path.startswith(f"{table.path}.") and path != f"{table.path}.":
            return table
    if field is not None:
        raise SettingsError(f"{path} is a table; set one key of it, as in {path}.some.key ({origin})")
    raise SettingsError(_unknown("setting", path, _FIELDS, origin))


def _unknown(kind: str, name: str, known: Iterable[str], origin: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else "`kalshibook settings` lists all there are"
    return f"unknown {kind} {name!r} ({origin}); {advice}"


def _build(found: Mapping[str, _Found]) -> Settings:
    sections: dict[str, dict[str, Any]] = {}
    tables: dict[str, dict[str, object]] = {}
    for path, one in found.items():
        field = _field_of(path, one.origin)
        values = sections.setdefault(field.section, {})
        if field.is_table:
            table = tables.setdefault(field.path, {})
            table[path.removeprefix(f"{field.path}.")] = one.value
            values[field.name] = _convert(table, field, path, one.origin)
        else:
            value = one.value
            if field.is_list and isinstance(value, str):
                value = [item.strip() for item in value.split(",") if item.strip()]
            values[field.name] = _convert(value, field, path, one.origin)
    return Settings(**{name: _section(name, values, found) for name, values in sections.items()})


def _convert(value: object, field: _Field, path: str, origin: str) -> object:
    try:
        return msgspec.convert(value, field.type, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at ")[0]
        raise SettingsError(f"{path}: {reason} ({origin})") from None


def _section(name: str, values: Mapping[str, Any], found: Mapping[str, _Found]) -> Any:
    try:
        return _SECTIONS[name](**values)
    except (SettingsError, ValueError) as error:
        mine = {path: one.origin for path, one in found.items() if path.startswith(f"{name}.")}
        named = {path: origin for path, origin in mine.items() if path.split(".")[1] in str(error)}
        where = ", ".join(f"{path}: {origin}" for path, origin in (named or mine).items())
        raise SettingsError(f"{error} ({where})") from None


def _values(settings: Settings) -> Iterable[tuple[str, object]]:
    for field in _FIELDS.values():
        value = getattr(getattr(settings, field.section), field.name)
        if field.is_table and value:
            yield from ((f"{field.path}.{key}", item) for key, item in sorted(value.items()))
        else:
            yield field.path, value


def _text(value: object) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(str(item) for item in value) or "(empty)"
    if isinstance(value, dict):
        return "(empty)"
    return str(value)

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kalshibook.errors import SettingsError
from kalshibook.settings import Argument, Loaded, Settings, load_settings

NASTY = [
    "pa$$word",
    "$HOME and ${HOME}",
    "a b  c ",
    "user@host:pw@x",
    "#no;comment",
    "quote\"'s",
    "50%=x",
    "ключ",
]


def _load(
    file: str | None = None,
    environ: dict[str, str] | None = None,
    *assignments: str,
    folder: Path | None = None,
) -> Loaded:
    config = None
    if file is not None:
        assert folder is not None
        config = folder / "some.toml"
        config.write_text(file, encoding="utf-8")
    arguments = [Argument.parse(text) for text in assignments]
    return load_settings(config=config, environ=environ or {}, arguments=arguments)


def _every_field() -> list[Any]:
    fields = []
    for section in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(section.type):
            kind = msgspec.inspect.type_info(field.type)
            default = getattr(getattr(Settings(), section.name), field.name)
            fields.append(
                pytest.param(section.name, field.name, kind, default, id=f"{section.name}.{field.name}")
            )
    return fields


def _other_value(kind: msgspec.inspect.Type, default: object) -> Any:
    """Make up a value of the field's type that is not its default, or fail for a type nobody thought of."""
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    if isinstance(kind, msgspec.inspect.BoolType):
        return not default
    if isinstance(kind, msgspec.inspect.FloatType):
        return 0.25 if default == 0.5 else 0.5
    if isinstance(kind, msgspec.inspect.IntType):
        assert isinstance(default, int | None)
        return (default or 0) + 1
    if isinstance(kind, msgspec.inspect.LiteralType):
        return next(value for value in kind.values if value != default)
    if isinstance(kind, msgspec.inspect.StrType):
        return "something-else"
    if isinstance(kind, msgspec.inspect.DictType):
        key = "0" if isinstance(kind.key_type, msgspec.inspect.IntType) else "some.key"
        return {key: "something-else" if isinstance(kind.value_type, msgspec.inspect.StrType) else 7}
    assert isinstance(
        kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType | msgspec.inspect.FrozenSetType
    )
    item = kind.item_type
    return (
        ["https://one.example", "https://two.example"]
        if isinstance(item, msgspec.inspect.StrType)
        else [1, 2]
    )


OWN_REST, OWN_STREAM = "http://127.0.0.1:8080/trade-api/v2", "ws://127.0.0.1:8081/trade-api/ws/v2"

# Fields that are valid only together with another one.
COMPANIONS = {
    ("kafka", "start"): {"kafka.start_offsets.0": "1"},
    ("kafka", "start_offsets"): {"kafka.start": "offsets"},
    ("gather", "key_id"): {"gather.private_key_file": "key.pem"},
    ("gather", "private_key"): {"gather.key_id": "an-id"},
    ("gather", "private_key_file"): {"gather.key_id": "an-id"},
    ("gather", "environment"): {"gather.rest_url": OWN_REST, "gather.stream_url": OWN_STREAM},
    ("gather", "rest_url"): {"gather.environment": "custom", "gather.stream_url": OWN_STREAM},
    ("gather", "stream_url"): {"gather.environment": "custom", "gather.rest_url": OWN_REST},
}
# Fields whose meaning allows fewer values than their type.
VALUES: dict[tuple[str, str], Any] = {
    ("kafka", "start"): "offsets",
    ("stream", "path"): "/other/path",
    ("gather", "environment"): "custom",
    ("gather", "rest_url"): OWN_REST,
    ("gather", "stream_url"): OWN_STREAM,
    ("gather", "statuses"): ["open"],
    ("gather", "page_markets"): 500,
    ("gather", "trade_connections"): 0,
    ("archive", "keep_days"): {"trades": 7},
    ("archive", "chunk_hours"): {"trades": 7},
    ("simulator", "fault_kinds"): ["lost"],
    ("simulator", "keys"): {"some.key": "some.pem"},
}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return msgspec.json.encode(value).decode()


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return (
        ",".join(str(item) for item in value) if isinstance(value, list | tuple | frozenset) else str(value)
    )


def _variable(path: str) -> str:
    return "KALSHIBOOK_" + path.replace(".", "_").upper()


@pytest.mark.parametrize(("section", "name", "kind", "default"), _every_field())
@pytest.mark.parametrize("route", ["default", "file", "environment", "command line"])
def test_every_setting_by_every_route(
    section: str, name: str, kind: msgspec.inspect.Type, default: Any, route: str, tmp_path: Path
) -> None:
    """Each setting reaches its struct from each source, which is then named as its origin."""
    value = VALUES.get((section, name), _other_value(kind, default))
    pairs = (
        {f"{section}.{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else None
    )
    pairs = pairs or {f"{section}.{name}": value}
    companions = COMPANIONS.get((section, name), {})
    if route == "default":
        loaded = _load()
    elif route == "file":
        lines = [f"{path} = {_toml(item)}" for path, item in (pairs | companions).items()]
        loaded = _load("\n".join(lines), folder=tmp_path)
    elif route == "environment":
        loaded = _load(None, {_variable(path): _as_text(item) for path, item in (pairs | companions).items()})
    else:
        loaded = _load(
            None, None, *(f"{path}={_as_text(item)}" for path, item in (pairs | companions).items())
        )

    found = getattr(getattr(loaded.settings, section), name)
    if route == "default":
        assert default == found
        assert all(loaded.origin(path) == "default" for path in pairs)
    else:
        assert default != found
        assert _as_text(value) == _as_text(found)
        assert all(route in loaded.origin(path) for path in pairs)


def test_later_sources_win(tmp_path: Path) -> None:
    """Command line over environment over file over default, one field at a time."""
    file = '[kafka]\ntopic = "file"\nstart = "beginning"\nrewind_minutes = 7'
    environ = {"KALSHIBOOK_KAFKA_TOPIC": "environment", "KALSHIBOOK_KAFKA_REWIND_MINUTES": "8"}

    kafka = _load(file, environ, "kafka.topic=argument", folder=tmp_path).settings.kafka

    assert ("argument", 8, "beginning", 500) == (
        kafka.topic,
        kafka.rewind_minutes,
        kafka.start,
        kafka.batch_records,
    )


def test_tables_merge_by_key(tmp_path: Path) -> None:
    """Each key of a table has its own source, quoted or not."""
    file = '[kafka.extra]\n"client.id" = "a"\nsasl.username = "from file"\nsocket.keepalive.enable = true'
    environ = {"KALSHIBOOK_KAFKA_EXTRA_SASL_USERNAME": "u", "KALSHIBOOK_KAFKA_EXTRA_A__B": "c"}

    loaded = _load(file, environ, "kafka.extra.linger.ms=5", folder=tmp_path)

    expected = {
        "client.id": "a",
        "sasl.username": "u",
        "socket.keepalive.enable": True,
        "a_b": "c",
        "linger.ms": "5",
    }
    assert expected == loaded.settings.kafka.extra
    assert "environment KALSHIBOOK_KAFKA_EXTRA_SASL_USERNAME" == loaded.origin("kafka.extra.sasl.username")


@pytest.mark.parametrize("secret", NASTY)
def test_secrets_survive_every_route(secret: str, tmp_path: Path) -> None:
    """Nothing in a value is expanded, trimmed, split or unquoted."""
    file = f"[kafka.extra]\n'sasl.password' = {_toml(secret)}"
    routes = [
        _load(file, folder=tmp_path),
        _load(None, {"KALSHIBOOK_KAFKA_EXTRA_SASL_PASSWORD": secret}),
        _load(None, None, f"kafka.extra.sasl.password={secret}"),
    ]

    assert [secret] * 3 == [loaded.settings.kafka.extra["sasl.password"] for loaded in routes]


def test_secrets_are_masked() -> None:
    """Neither the rows nor the struct's own text shows a password."""
    loaded = _load(None, None, "kafka.extra.sasl.password=hunter2", "kafka.extra.client.id=me")

    shown = {row.path: row.value for row in loaded.rows()}
    assert "***" == shown["kafka.extra.sasl.password"]
    assert "me" == shown["kafka.extra.client.id"]
    assert "hunter2" not in repr(loaded)


@pytest.mark.parametrize(
    ("file", "environ", "argument", "near", "where"),
    [
        ("[kafak]\ntopic = 'x'", {}, None, "'kafka'", "file "),
        ("[kafka]\ntopik = 'x'", {}, None, "'kafka.topic'", "some.toml"),
        (None, {"KALSHIBOOK_KAFKA_TOPIK": "x"}, None, "'KALSHIBOOK_KAFKA_TOPIC'", "environment"),
        (None, {}, "kafka.topik=x", "'kafka.topic'", "command line --set"),
        (None, {}, "topic=x", "'kafka.topic'", "command line --set"),
    ],
)
def test_unknown_names_the_nearest(
    file: str | None, environ: dict[str, str], argument: str | None, near: str, where: str, tmp_path: Path
) -> None:
    """An unknown key is an error that says where it stands and what was probably meant."""
    with pytest.raises(SettingsError) as caught:
        _load(file, environ, *([argument] if argument else []), folder=tmp_path)

    assert f"did you mean {near}?" in str(caught.value)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("file", "environ", "argument", "where"),
    [
        ("[kafka]\nrewind_minutes = 'soon'", {}, None, "some.toml"),
        (
            None,
            {"KALSHIBOOK_KAFKA_REWIND_MINUTES": "soon"},
            None,
            "environment KALSHIBOOK_KAFKA_REWIND_MINUTES",
        ),
        (None, {}, "kafka.rewind_minutes=soon", "command line --set"),
        (None, {}, "kafka.rewind_minutes=-1", "command line --set"),
        (None, {}, "log.level=loud", "command line --set"),
        (None, {}, "server.switch_interval_us=-1", "command line --set"),
    ],
)
def test_unfit_values_say_where_they_stand(
    file: str | None, environ: dict[str, str], argument: str | None, where: str, tmp_path: Path
) -> None:
    """A value of the wrong type or out of range is an error with its path and its source."""
    with pytest.raises(SettingsError) as caught:
        _load(file, environ, *([argument] if argument else []), folder=tmp_path)

    assert where in str(caught.value)
    assert any(path in str(caught.value) for path in ("rewind_minutes", "log.level", "switch_interval_us"))


@pytest.mark.parametrize(
    ("file", "environ", "arguments", "message"),
    [
        ("kafka = 5", {}, [], "is a section"),
        ("[kafka", {}, [], "is not TOML"),
        ("[kafka]\nextra = 5", {}, [], "is a table"),
        ("[kafka.topc]", {}, [], "unknown setting 'kafka.topc'"),
        ("[kafka.topic]", {}, [], "kafka.topic: Expected `str`"),
        (None, {"KALSHIBOOK_KAFKA_EXTRA": "{}"}, [], "names a table"),
        (None, {}, ["kafka.extra={}"], "is a table"),
        (None, {}, ["kafka.topic"], "has no '='"),
    ],
)
def test_misshapen_sources(
    file: str | None, environ: dict[str, str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    """What is not a setting at all is told apart from what is unknown."""
    with pytest.raises(SettingsError, match=message):
        _load(file, environ, *arguments, folder=tmp_path)


def test_a_table_may_be_empty(tmp_path: Path) -> None:
    """A table's heading without keys, all of them commented out perhaps, sets nothing."""
    loaded = _load("[kafka]\n[kafka.extra]\n", folder=tmp_path)

    assert {} == loaded.settings.kafka.extra
    assert [] == [row for row in loaded.rows() if row.origin != "default"]


def test_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config`, else `KALSHIBOOK_CONFIG`, else the working directory's file; a named one must exist."""
    for name in ("kalshibook", "variable", "option"):
        (tmp_path / f"{name}.toml").write_text(f"[kafka]\ntopic = '{name}'")
    monkeypatch.chdir(tmp_path)
    environ = {"KALSHIBOOK_CONFIG": str(tmp_path / "variable.toml")}

    assert "kalshibook" == load_settings(environ={}).settings.kafka.topic
    assert "variable" == load_settings(environ=environ).settings.kafka.topic
    assert "option" == load_settings(config=tmp_path / "option.toml", environ=environ).settings.kafka.topic
    with pytest.raises(SettingsError, match=r"missing\.toml cannot be read"):
        load_settings(config=tmp_path / "missing.toml", environ={})


def test_rows_are_complete() -> None:
    """Every section and every field appears, with text for absent values."""
    rows = {row.path: row.value for row in _load().rows()}

    assert {field.id for field in _every_field()} == set(rows)
    assert "(none)" == rows["kafka.quarantine_file"]
    assert "(empty)" == rows["kafka.extra"]

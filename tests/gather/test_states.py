from kalshibook.gather.states import CONNECTIONS, ConnectionEvent, ConnectionState


def test_the_table_of_connections_is_whole() -> None:
    """Every state knows every event; nothing but a stop ends a connection, and nothing follows a stop."""
    for state in ConnectionState:
        assert set(ConnectionEvent) == set(CONNECTIONS[state])
        assert ConnectionState.STOPPED is CONNECTIONS[state][ConnectionEvent.STOP]
    stopping = {
        event
        for state in ConnectionState
        if state is not ConnectionState.STOPPED
        for event in ConnectionEvent
        if CONNECTIONS[state][event] is ConnectionState.STOPPED
    }
    assert {ConnectionEvent.STOP} == stopping


def test_a_connection_is_live_only_through_filling() -> None:
    """Nothing that was lost is taken for whole before its snapshots have come."""
    state = ConnectionState.CONNECTING
    assert state is CONNECTIONS[state][ConnectionEvent.WHOLE]
    for event, expected in (
        (ConnectionEvent.OPENED, ConnectionState.FILLING),
        (ConnectionEvent.WHOLE, ConnectionState.LIVE),
        (ConnectionEvent.DOUBT, ConnectionState.FILLING),
        (ConnectionEvent.WHOLE, ConnectionState.LIVE),
        (ConnectionEvent.LOST, ConnectionState.WAITING),
        (ConnectionEvent.WHOLE, ConnectionState.WAITING),
        (ConnectionEvent.RETRY, ConnectionState.CONNECTING),
    ):
        state = CONNECTIONS[state][event]
        assert expected is state

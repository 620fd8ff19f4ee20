"""WebSocket serving on its own Trio listener: session (sans-IO), hub, outbox, socket."""

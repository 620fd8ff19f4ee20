"""The WebSocket server: Kalshi's protocol and a channel for the top of book, on a listener of its own."""

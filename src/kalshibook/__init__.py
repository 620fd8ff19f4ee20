"""Every order book of the Kalshi exchange, in memory, always consistent, never locked."""

__version__ = "0.1.0"

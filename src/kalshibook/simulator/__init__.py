"""
A local exchange that speaks Kalshi's formats: true books, the activity that moves them, and faults.

`MarketGenerator` makes frames without a network, and needs nothing but the core. A whole exchange
with REST, WebSocket and keys is `kalshibook.simulator.server.SimulatedExchange`.
"""

from kalshibook.simulator.exchange import ExchangeModel as ExchangeModel, ModelMarket as ModelMarket
from kalshibook.simulator.generator import MarketGenerator as MarketGenerator
from kalshibook.simulator.grids import GRIDS as GRIDS, Grid as Grid
from kalshibook.simulator.options import (
    GeneratorOptions as GeneratorOptions,
    SimulatorOptions as SimulatorOptions,
)

__all__ = [
    "GRIDS",
    "ExchangeModel",
    "GeneratorOptions",
    "Grid",
    "MarketGenerator",
    "ModelMarket",
    "SimulatorOptions",
]

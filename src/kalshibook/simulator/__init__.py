"""A local exchange that speaks Kalshi's formats: true books, and the activity that moves them. Pure."""

from kalshibook.simulator.exchange import ExchangeModel as ExchangeModel, ModelMarket as ModelMarket
from kalshibook.simulator.generator import MarketGenerator as MarketGenerator
from kalshibook.simulator.grids import GRIDS as GRIDS, Grid as Grid
from kalshibook.simulator.options import GeneratorOptions as GeneratorOptions

__all__ = ["GRIDS", "ExchangeModel", "GeneratorOptions", "Grid", "MarketGenerator", "ModelMarket"]

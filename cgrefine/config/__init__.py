"""Configuration: schema and loading."""

from cgrefine.config.load import dump, load_config, parse
from cgrefine.config.schema import Config

__all__ = ["Config", "dump", "load_config", "parse"]

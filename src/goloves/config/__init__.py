"""The configuration: one frozen `Config` out of a TOML file, the environment and flags.

`settings` says what can be set, `load` puts the sources together, `rules` holds the relations between settings, `lines`
finds the line of a key in a TOML file, and `document` writes the reference and the commented file.
"""

from goloves.config.load import Loaded, load
from goloves.config.problems import ConfigProblems
from goloves.config.settings import (
    Config,
    HttpConfig,
    LeafConfig,
    LogConfig,
    SegmentConfig,
    ServerConfig,
    SnowflakeConfig,
    SpaceConfig,
    StoresConfig,
    mask_url,
)

__all__ = [
    "Config",
    "ConfigProblems",
    "HttpConfig",
    "LeafConfig",
    "Loaded",
    "LogConfig",
    "SegmentConfig",
    "ServerConfig",
    "SnowflakeConfig",
    "SpaceConfig",
    "StoresConfig",
    "load",
    "mask_url",
]

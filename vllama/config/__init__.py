"""Settings: flag > VLLAMA_* > OLLAMA_* > vllama.toml > default, each with the source it came from."""

from vllama.config.host import Host, parse_host
from vllama.config.load import load_settings
from vllama.config.models import ModelSettings
from vllama.config.settings import Row, Settings

__all__ = ["Host", "ModelSettings", "Row", "Settings", "load_settings", "parse_host"]

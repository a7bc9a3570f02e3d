"""ncpl: how neural collapse and plasticity loss belong together."""

__version__ = "0.2.0"

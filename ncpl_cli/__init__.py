"""ncpl: how neural collapse and plasticity loss belong together."""

__version__ = "0.1.0"

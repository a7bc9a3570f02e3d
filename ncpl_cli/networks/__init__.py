"""Networks. The dictionary below is the registry: a new network is one file and one name here.

A network is an `nn.Module` with `layer_names`, `classify(x)` and `initialise(rng)`, as in `mlp.py`, and a
linear `classifier`.
"""

from __future__ import annotations

from ncpl_cli.networks.mlp import ACTIVATIONS, MLP, NORMS

NETWORKS = {"mlp": MLP}

__all__ = ["ACTIVATIONS", "MLP", "NETWORKS", "NORMS"]

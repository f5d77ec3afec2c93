"""Networks by name: the one place that knows which there are."""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any

from cgrefine.energy import NetworkTerm
from cgrefine.fm.models import allegro, mace, painn, schnet

NETWORKS: Mapping[str, tuple[type, Callable[[Any], NetworkTerm]]] = {
    "allegro": (allegro.Allegro, allegro.network),
    "mace": (mace.MACE, mace.network),
    "painn": (painn.PaiNN, painn.network),
    "schnet": (schnet.SchNet, schnet.network),
}
"""The static facts of each network, a dataclass, and the function that makes its term of them."""


def network_term(facts: Mapping[str, Any]) -> NetworkTerm:
    """The network of `facts`: the model section of the configuration, and "avg_neighbors".

    Its term is called "network". Facts that the network does not know are not read. Equal facts give the same
    term, so that what is compiled for one model serves every other of its form. Raises ValueError on an
    unknown name, KeyError on a missing fact.
    """
    name = facts["name"]
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    kind, _ = NETWORKS[name]
    stated = [f.name for f in fields(kind) if f.default is MISSING or f.name in facts]
    return _made(name, json.dumps({fact: facts[fact] for fact in stated}, sort_keys=True))


@lru_cache(maxsize=64)
def _made(name: str, facts: str) -> NetworkTerm:
    """The network of facts as JSON."""
    kind, made = NETWORKS[name]
    return made(kind(**json.loads(facts)))

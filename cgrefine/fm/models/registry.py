"""Networks by name: the one place that knows which there are."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from cgrefine.energy import NetworkTerm
from cgrefine.fm.models import allegro


def _allegro(facts: Mapping[str, Any]) -> NetworkTerm:
    names = [field.name for field in fields(allegro.Allegro)]
    return allegro.network(allegro.Allegro(**{name: facts[name] for name in names}))


NETWORKS: Mapping[str, Callable[[Mapping[str, Any]], NetworkTerm]] = {"allegro": _allegro}


def network_term(facts: Mapping[str, Any]) -> NetworkTerm:
    """The network of `facts`: the model section of the configuration, and "avg_neighbors".

    Its term is called "network". Raises ValueError on an unknown name, KeyError on a missing fact.
    """
    name = facts["name"]
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    return NETWORKS[name](facts)

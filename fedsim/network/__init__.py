"""The network: a networkx graph whose links transfers share max-min fairly, and the graphs that a scenario can name.

It is usable alone, without torch and SimPy:

>>> import networkx as nx
>>> graph = nx.Graph([("phone", "mast", {"capacity": 100.0, "latency": 0.25})])
>>> finish_times(graph, [{"path": ["mast", "phone"], "bytes": size, "start": 0.0} for size in (50, 100)])
[1.25, 1.75]
"""

from collections.abc import Callable

from fedsim.network.capacity import Degraded, Interrupted, Recording, Repeated, Steps, Varying
from fedsim.network.conditions import Conditions, Node, Outage, broken_links
from fedsim.network.fluid import Fluid
from fedsim.network.generated import (
    BarabasiAlbert,
    Complete,
    ErdosRenyi,
    Exponential,
    Grid,
    Ring,
    WattsStrogatz,
)
from fedsim.network.measured import RoundTrips
from fedsim.network.outages import Outages, Policy, policy_of
from fedsim.network.recorded import CrossSilo, GraphFile, TopologyZoo
from fedsim.network.routes import Routes
from fedsim.network.shapes import Shape
from fedsim.network.sharing import Flow, Way
from fedsim.network.topologies import Network, Star, Tree, edge_name
from fedsim.network.traces import TRACES
from fedsim.network.transfers import Transfer, finish_times

NETWORKS: dict[str, Callable[..., Network]] = {
    "star": Star,
    "tree": Tree,
    "ring": Ring,
    "grid": Grid,
    "complete": Complete,
    "exponential": Exponential,
    "erdos_renyi": ErdosRenyi,
    "watts_strogatz": WattsStrogatz,
    "barabasi_albert": BarabasiAlbert,
    "file": GraphFile,
    "topology_zoo": TopologyZoo,
    "cross_silo": CrossSilo,
    "rtt": RoundTrips,
}
"""What a scenario can name under `network`; all but the first two are `Shape`s."""

__all__ = ["NETWORKS", "TRACES", "Conditions", "Degraded", "Flow", "Fluid", "Interrupted", "Network", "Node", "Outage",
           "Outages", "Policy", "Recording", "Repeated", "Routes", "Shape", "Star", "Steps", "Transfer", "Tree",
           "Varying", "Way", "broken_links", "edge_name", "finish_times", "policy_of"]  # fmt: skip

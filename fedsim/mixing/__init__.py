"""Who listens to whom, with which weight, in a federation without a server: graphs, mixing matrices, global merges.

A mixing gives a row-stochastic matrix for each round, as one mapping for each peer:

>>> from fedsim.mixing.fixed import Metropolis
>>> from fedsim.mixing.graphs import Path
>>> Metropolis(clients=3, graph=Path(clients=3)).rows(0)[0]
{0: 0.6666666666666667, 1: 0.3333333333333333}
"""

from collections.abc import Callable

from fedsim.mixing import drawn, finite, fixed, graphs, merging
from fedsim.mixing.graphs import Overlay
from fedsim.mixing.merging import Merge
from fedsim.mixing.mixing import Mixing, Row

GRAPHS: dict[str, Callable[..., Overlay]] = {
    "network": graphs.Physical,
    "ring": graphs.Ring,
    "tour": graphs.Tour,
    "path": graphs.Path,
    "star": graphs.Star,
    "binary_tree": graphs.BinaryTree,
    "spanning_tree": graphs.SpanningTree,
    "complete": graphs.Complete,
    "exponential": graphs.Exponential,
    "grid": graphs.Grid,
    "random_regular": graphs.RandomRegular,
    "erdos_renyi": graphs.ErdosRenyi,
}
"""What a scenario can name under `graph`."""

MIXING: dict[str, Callable[..., Mixing]] = {
    "metropolis": fixed.Metropolis,
    "uniform": fixed.Uniform,
    "weights": fixed.Weights,
    "none": fixed.Nobody,
    "average": fixed.Average,
    "directed_pull": drawn.DirectedPull,
    "matching": drawn.Matching,
    "epidemic": drawn.Epidemic,
    "one_peer_exponential": finite.OnePeerExponential,
    "base": finite.Base,
}
"""What a scenario can name under `mixing`."""

MERGE: dict[str, Callable[..., Merge]] = {
    "never": merging.Never,
    "last": merging.Last,
    "window": merging.Window,
    "truncate": merging.Truncate,
    "every": merging.Every,
}
"""What a scenario can name under `merge`."""

__all__ = ["GRAPHS", "MERGE", "MIXING", "Merge", "Mixing", "Overlay", "Row"]

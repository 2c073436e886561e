"""Where Flower is not installed, nobody tries the examples in what is made for it."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("flwr") else ["fedsim/flower/*"]

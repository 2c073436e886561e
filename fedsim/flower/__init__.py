"""The same server algorithms and the same local training on devices, through Flower."""

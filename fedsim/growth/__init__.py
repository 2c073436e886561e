"""Batches that grow while clients train, as their examples' gradients ask for it."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.growth.growth import Growth, Spread
from fedsim.growth.inner_product import InnerProduct
from fedsim.growth.norm_test import NormTest
from fedsim.growth.pace import Pace

GROWTH: dict[str, Callable[..., Growth]] = {"norm_test": NormTest, "inner_product": InnerProduct}

__all__ = ["GROWTH", "Growth", "InnerProduct", "NormTest", "Pace", "Spread"]

"""Pictures look as papers print them: letters stay letters, and colours can be told apart by all."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fedsim.style import COLOURS, LOOKS, PAGE, SMALL

SIGHT = {
    "all colours": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What is left of linear red, green and blue: Machado, Oliveira & Fernandes 2009, at severity 1."""
LAB = (
    np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]),
    np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]),
)
"""Linear red, green and blue to Oklab (Ottosson 2020), in which distances are about what one sees."""


def seen(colour: str, sight: object) -> np.ndarray:
    """In Oklab."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return LAB[1] @ np.cbrt(LAB[0] @ (np.array(sight) @ linear).clip(0, 1))


@pytest.mark.parametrize("name", SIGHT)
def test_colours_are_apart_for_everybody(name) -> None:
    """Further than a hundredth and a half: what is just seen; matplotlib's own red and green are not."""
    near = min(float(np.linalg.norm(seen(one, SIGHT[name]) - seen(other, SIGHT[name])))
               for one, other in combinations(COLOURS, 2))  # fmt: skip
    assert near > 0.05, near


def test_a_pdf_is_as_wide_as_a_page_and_its_letters_are_letters(tmp_path) -> None:
    with matplotlib.rc_context(LOOKS):
        drawing = Figure(figsize=(PAGE, 2.0))
        drawing.subplots().set(xlabel=r"virtual time (s), $\beta$", title="accuracy")
        drawing.savefig(tmp_path / "some.pdf")
        drawing.savefig(tmp_path / "some.png")
    printed = (tmp_path / "some.pdf").read_bytes()
    assert b"/Type3" not in printed
    assert b"/FontFile2" in printed
    assert b"STIXGeneral" in printed
    assert min(LOOKS[key] for key in LOOKS if key.endswith(("size", "fontsize")) and "font" in key) >= SMALL
    assert matplotlib.image.imread(tmp_path / "some.png").shape[1] <= PAGE * LOOKS["savefig.dpi"]

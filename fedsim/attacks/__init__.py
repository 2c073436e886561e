"""What a curious server can do with messages, and what clients that lie do to a server."""

from __future__ import annotations

from fedsim.attacks.leakage import DLG, IDLG, Attack, InvertingGradients
from fedsim.attacks.lies import LIES
from fedsim.attacks.poisons import POISONS

ATTACKS: dict[str, type[Attack]] = {
    "dlg": DLG,
    "idlg": IDLG,
    "inverting_gradients": InvertingGradients,
}

__all__ = ["ATTACKS", "LIES", "POISONS"]

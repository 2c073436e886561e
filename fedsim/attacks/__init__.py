"""What a curious server can do with messages."""

from __future__ import annotations

from fedsim.attacks.leakage import DLG, IDLG, Attack, InvertingGradients

ATTACKS: dict[str, type[Attack]] = {
    "dlg": DLG,
    "idlg": IDLG,
    "inverting_gradients": InvertingGradients,
}

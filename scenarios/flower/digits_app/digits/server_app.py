"""What the server does: Flower's own FedAvg."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits.task import net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Rounds of FedAvg."""
    strategy = FedAvg(fraction_train=float(context.run_config["fraction-train"]))
    start = ArrayRecord(net().state_dict())
    strategy.start(grid, start, num_rounds=int(context.run_config["num-server-rounds"]))

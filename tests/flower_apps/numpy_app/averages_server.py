"""FedAvg as flwr has it."""

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid, context):
    strategy = FedAvg(fraction_train=context.run_config["fraction-train"])
    start = ArrayRecord({"w": Array(np.zeros(4))})
    result = strategy.start(grid, start, num_rounds=context.run_config["num-server-rounds"])
    if context.run_config["out"]:
        np.savez(context.run_config["out"], w=result.arrays["w"].numpy())

"""Each client moves the model towards its number; it counts its trainings in its state."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    number = context.node_config["partition-id"]
    model = message.content["arrays"]["w"].numpy()
    for _ in range(context.run_config["local-epochs"]):
        model = model + context.run_config["lr"] * (number - model)
    noise = np.random.standard_normal(model.shape) * 0.01
    count = context.state.config_records.get("memory", ConfigRecord({"count": 0}))["count"] + 1
    context.state["memory"] = ConfigRecord({"count": count})
    metrics = MetricRecord({"num-examples": 10 * (number + 1), "loss": float(np.square(number - model).mean()),
                            "count": count})  # fmt: skip
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(model + noise)}), "metrics": metrics}),
                   reply_to=message)  # fmt: skip


@app.evaluate()
def evaluate(message, context):
    model = message.content["arrays"]["w"].numpy()
    loss = float(np.square(context.node_config["partition-id"] - model).mean())
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 6, "loss": loss})}), reply_to=message)

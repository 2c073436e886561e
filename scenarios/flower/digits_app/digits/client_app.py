"""What a device does."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from digits import task

app = ClientApp()


def received(message: Message) -> nn.Module:
    """The model that came with a message."""
    model = task.net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return model


def mine(context: Context) -> tuple:
    """This device's data."""
    return task.load(int(context.node_config["partition-id"]), int(context.node_config["num-partitions"]))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local training."""
    model, (x, y, _, _) = received(message), mine(context)
    loss = task.train(model, x, y, int(context.run_config["local-epochs"]), float(context.run_config["lr"]))
    metrics = MetricRecord({"num-examples": len(y), "train_loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """On the device's own test examples."""
    model, (_, _, x, y) = received(message), mine(context)
    loss, accuracy = task.evaluate(model, x, y)
    metrics = MetricRecord({"num-examples": len(y), "loss": loss, "accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

"""Local training."""

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    from lines.task import data, steps  # as late as apps like to do it

    model = torch.nn.Linear(1, 1)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = data(context.node_config["partition-id"])
    loss = steps(model, x, y, context.run_config["local-epochs"], context.run_config["optimizer.lr"])
    metrics = MetricRecord({"num-examples": len(x), "train_loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

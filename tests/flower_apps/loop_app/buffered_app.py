"""An asynchronous loop of one's own: whoever is idle is asked, and every `goal` replies are a step."""

import time
from time import sleep

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client, server = ClientApp(), ServerApp()


@client.train()
def train(message, context):
    number = context.node_config["partition-id"]
    model = message.content["arrays"]["w"].numpy()
    content = {
        "arrays": ArrayRecord({"w": Array(0.1 * (number - model))}),
        "metrics": MetricRecord({"num-examples": 10, "version": message.content["config"]["version"]}),
    }
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid, context):
    model, version, heard, steps = np.zeros(2), 0, [], []
    under_way = {}
    while version < context.run_config["steps"]:
        idle = [node for node in grid.get_node_ids() if node not in under_way.values()]
        for node in idle:
            content = {"arrays": ArrayRecord({"w": Array(model)}), "config": ConfigRecord({"version": version})}
            [name] = grid.push_messages([Message(RecordDict(content), node, "train")])
            under_way[name] = node
        for reply in grid.pull_messages(list(under_way)):
            under_way.pop(reply.metadata.reply_to_message_id)
            if reply.has_content():
                heard.append(reply)
        if len(heard) >= context.run_config["goal"]:
            model = model + np.mean([reply.content["arrays"]["w"].numpy() for reply in heard], axis=0)
            version, heard = version + 1, []
            steps.append(time.monotonic())
        sleep(0.1)
    if context.run_config["out"]:
        np.savez(context.run_config["out"], w=model, steps=steps)

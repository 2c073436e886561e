"""What both halves know."""

import torch


def data(number):
    """Points of a client."""
    x = torch.linspace(-1, 1, 8 + number).unsqueeze(1)
    return x, number * x + 1


def steps(model, x, y, epochs, lr):
    """Train on a random half of the points; the last loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        chosen = torch.randperm(len(x))[: len(x) // 2]
        loss = torch.nn.functional.mse_loss(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()

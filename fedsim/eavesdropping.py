"""Somebody who reads messages on the wire, and afterwards looks for the examples that they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from fedsim.attacks.leakage import Reconstruction, Sight, matched, plain, psnr
from fedsim.errors import ScenarioError
from fedsim.models.binary import at
from fedsim.objectives import Plain
from fedsim.optimizers import Recipe
from fedsim.sources import Backpropagation
from fedsim.training import batches
from fedsim.wire.codec import Codec, Draw, Message
from fedsim.wire.privacy import Privacy
from fedsim.wire.sketches import Sketch
from fedsim.work import LocalTask

if TYPE_CHECKING:
    from fedsim.experiment import Experiment


@dataclass
class Eavesdropper:
    """Reads the messages of one client to a server that keeps to the protocol, in the versions that are named.

    It knows the model, the codec, its seed and the clip norm. Clients take one step of plain SGD, so that a change is
    minus lr times a gradient.
    """

    experiment: Experiment
    codec: Codec
    privacy: Privacy
    attack: Any
    client: int
    versions: tuple[int, ...]
    heard: list[tuple[LocalTask, Message, Draw]] = field(default_factory=list)
    changing: ClassVar[tuple[str, ...]] = ("heard",)

    def overhear(self, task: LocalTask, message: Message, draw: Draw) -> None:
        """A message passes."""
        if task.client == self.client and task.version in self.versions:
            self.heard.append((task, message, draw))

    def reconstructions(self) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        """How well each message gives its examples away, a row each; and examples `true` and `found` (n, B, *shape)."""
        rows, pictures = [], {"true": [], "found": []}
        for task, message, draw in self.heard:
            true, labels = self._truth(task)
            found = self.attack.run(self._sight(task, message, draw), self.experiment.given["seed"])
            rows.append(self._row(task, true, labels, found))
            pictures["true"].append(true)
            pictures["found"].append(matched(found.x, true).float())
        return pd.DataFrame(rows), {name: torch.stack(parts) for name, parts in pictures.items() if parts}

    def _row(self, task: LocalTask, true: Tensor, labels: Tensor, found: Reconstruction) -> dict[str, Any]:
        span = float(self.experiment.trainer.x.max() - self.experiment.trainer.x.min())
        right = sorted(found.y.tolist()) == sorted(labels.tolist())
        return {"client": task.client, "version": task.version, "psnr_db": psnr(found.x, true, span),
                "loss": found.loss, "labels_found": right, "steps": found.steps}  # fmt: skip

    def _truth(self, task: LocalTask) -> tuple[Tensor, Tensor]:
        """The examples that the message comes from, and their labels."""
        trainer = self.experiment.trainer
        held = trainer.parts.held(task.client, task.ordinal)
        [places] = batches(trainer.seed, task, len(held), trainer.batch)
        own = trainer.parts.labels
        labels = trainer.y[held[places]] if own is None else torch.from_numpy(own[task.client][places])
        return trainer.x[held[places]], labels

    def _sight(self, task: LocalTask, message: Message, draw: Draw) -> Sight:
        """What it knows of a message that a gradient is behind."""
        experiment, size = self.experiment, self.experiment.layout.size
        sketched = isinstance(self.codec, Sketch)
        content = message[0] if sketched else self.codec.decode(message, size, draw)
        bare = not sketched and self.privacy.clip is None
        return Sight(
            model=at(experiment.evaluator.model, task.version), layout=experiment.layout, params=task.params,
            message=content.double() / -self._lr, shape=tuple(experiment.trainer.x.shape[1:]),
            classes=experiment.given["classes"], batch=len(self._truth(task)[1]),
            sketch=plain if bare else partial(self._sent, draw=draw),
            adjoint=partial(self._lifted, size=size, draw=draw) if sketched else None,
        )  # fmt: skip

    @property
    def _lr(self) -> float:
        """Of the clients' SGD."""
        recipe = self.experiment.trainer.optimizer
        assert isinstance(recipe, Recipe)
        return recipe.arguments["lr"]

    def _sent(self, gradient: Tensor, draw: Draw) -> Tensor:
        """What is sent of a gradient, over -lr: clipped, and sketched."""
        clip, layout = self.privacy.clip, self.experiment.layout
        bound = 0.0 if clip is None else self.privacy.bound_at(draw.version) / self._lr
        if clip is not None and not clip.message:
            gradient = clip.clipped(gradient, bound, layout)
        if isinstance(self.codec, Sketch):
            gradient = self.codec.sketch(gradient, self.codec.rows(len(gradient)), self.codec.randomness(draw))
        return clip.clipped(gradient, bound, layout) if clip is not None and clip.message else gradient

    def _lifted(self, content: Tensor, size: int, draw: Draw) -> Tensor:
        assert isinstance(self.codec, Sketch)
        return self.codec.lift(content, size, self.codec.randomness(draw))


def eavesdropper(experiment: Experiment, codec: Codec, privacy: Privacy) -> Eavesdropper | None:
    """The one that the scenario asks for.

    Raises:
        ScenarioError: where a message is not a gradient that an attack could start from.
    """
    arm = experiment.arm
    keys = arm.keys.eavesdrop
    if keys is None:
        return None
    recipe = experiment.trainer.optimizer
    bare = isinstance(recipe, Recipe) and recipe.momentum == 0 and not recipe.arguments.get("weight_decay")
    if arm.keys.local.steps != 1 or not bare:
        raise ScenarioError(f"{arm.place(('eavesdrop',))}: eavesdrop: a change gives a gradient away after one step of "
                            "plain sgd alone: local.steps 1, without momentum and weight_decay")  # fmt: skip
    trainer = experiment.trainer
    if type(trainer.objective) is not Plain or type(trainer.source) is not Backpropagation or trainer.rules:
        raise ScenarioError(f"{arm.place(('local',))}: local: eavesdrop knows the gradient of the loss of examples "
                            "as they are alone: leave out objective, source, schedule and control")  # fmt: skip
    if not experiment.trainer.x.is_floating_point() or experiment.trainer.y.is_floating_point():
        raise ScenarioError(f"{arm.place(('data',))}: data: eavesdrop looks for examples of floats with classes")
    if keys.client >= arm.keys.fleet.clients:
        raise ScenarioError(f"{arm.place(('eavesdrop', 'client'))}: eavesdrop.client: there is no client {keys.client}")
    attack = arm.build({}, "eavesdrop", "attack")
    return Eavesdropper(experiment, codec, privacy, attack, keys.client, keys.versions)

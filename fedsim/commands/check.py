"""Foresee a scenario."""

from __future__ import annotations

import json

import typer
import yaml

from fedsim.commands.options import DataFolder, Json, Overrides, ScenarioFile


def check(scenario: ScenarioFile, overrides: Overrides = None, data: DataFolder = None, as_json: Json = False) -> None:
    """Print the resolved scenario and what it will cost, without training anything."""
    from fedsim.conduct import foresee
    from fedsim.experiment import assemble
    from fedsim.scenario import read
    from fedsim.terminal import clock, traffic

    arms = read(scenario, overrides or [])
    costs = [foresee(assemble(arm, data)) for arm in arms]
    if as_json:
        pairs = zip(arms, costs, strict=True)
        typer.echo(json.dumps([{"label": a.label, "scenario": a.resolved, "cost": cost} for a, cost in pairs]))
        return
    for arm, cost in zip(arms, costs, strict=True):
        typer.echo(f"# {arm.label}\n{yaml.safe_dump(arm.resolved, sort_keys=False)}")
        typer.echo(
            f"# costs {clock(cost['time_s'])} of virtual time, {cost['versions']} versions, {cost['updates']} updates "
            f"({cost['lost']} lost), {traffic(cost['bytes_down'])} down, {traffic(cost['bytes_up'])} up, "
            f"about {traffic(cost['memory'])} of memory{cost['caveat']}\n"
        )

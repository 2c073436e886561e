"""A run as MLflow keeps it: steps are versions, times are virtual ones."""

from __future__ import annotations

import os
from pathlib import Path

from fedsim.errors import ExtraMissing
from fedsim.results import Run
from fedsim.sinks.rows import parameters, scalars

EXPERIMENT = "fedsim"
STORE = "mlflow.db"
"""SQLite, as MLflow keeps no more files; `mlflow ui --backend-store-uri sqlite:///DIR/mlflow.db` shows it."""
MOST = 6000
"""So long may a parameter be."""


def write(run: Run, target: Path) -> None:
    """Write a run's measurements and scenario into a database in a folder. ExtraMissing without mlflow."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read on import; nothing here calls anybody
    try:
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ExtraMissing("this needs mlflow-skinny: pip install 'fedsim-lab[trackers]'") from error
    target.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{target.resolve() / STORE}")
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
    number = client.create_run(experiment, run_name=run.label).info.run_id
    for name, value in parameters(run).items():
        client.log_param(number, name.replace(":", "."), value[:MOST])
    for version, seconds, values in scalars(run):
        for name, value in values.items():
            client.log_metric(number, name, value, timestamp=round(seconds * 1000), step=version)
    client.set_terminated(number, status="FINISHED" if run.finished else "FAILED")

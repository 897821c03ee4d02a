"""Where training metrics go beside Parquet: TensorBoard, Weights & Biases, MLflow, through Lightning's loggers.

Everything is written into the training's folder. Nothing leaves the machine unless the environment says so:
`WANDB_MODE=online` and `MLFLOW_TRACKING_URI` mean what they mean to those tools.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from stages.config.training import Logger
from stages.contracts.errors import StageError

PACKAGES: dict[Logger, tuple[str, ...]] = {
    "tensorboard": ("lightning", "tensorboard"),
    "wandb": ("lightning", "wandb"),
    "mlflow": ("lightning", "mlflow", "alembic", "sqlalchemy"),
}
PROJECT = "meta-rewarding"


def check_loggers(names: Sequence[Logger]) -> None:
    """StageError that names a logger whose package is not installed, and the extra that has it."""
    for name in names:
        for package in PACKAGES[name]:
            if find_spec(package) is None:
                raise StageError(
                    f"train.loggers: `{name}` needs the Python package {package}: install the extra `loggers` "
                    f"(pip install '.[train,loggers]'), or take `{name}` out of the list"
                )


class MetricSinks:
    """Context manager: sends metrics and tables to each of the named loggers, and closes them."""

    def __init__(
        self, names: Sequence[Logger], folder: Path, hyperparameters: Mapping[str, Any], first_step: int = 0
    ) -> None:
        """`first_step` is where this process starts: TensorBoard forgets what an earlier try logged from there on."""
        self._loggers = {name: _OPEN[name](folder, first_step) for name in names}
        for logger in self._loggers.values():
            logger.log_hyperparams(dict(hyperparameters))

    def __enter__(self) -> "MetricSinks":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for name, logger in self._loggers.items():
            logger.finalize("success" if kind is None else "failed")
            if name == "wandb":
                _close_wandb(logger, failed=kind is not None)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log values of one step."""
        for logger in self._loggers.values():
            logger.log_metrics(dict(values), step=step)

    def table(self, title: str, data: pl.DataFrame, step: int) -> None:
        """Log a table of texts and numbers."""
        for name, logger in self._loggers.items():
            _TABLE[name](logger, title, data, step)


def _open_tensorboard(folder: Path, first_step: int) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(
        save_dir=str(folder), name="tensorboard", version="", default_hp_metric=False, purge_step=first_step
    )


def _open_wandb(folder: Path, first_step: int) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    folder.mkdir(parents=True, exist_ok=True)
    mode = os.environ.get("WANDB_MODE", "offline")
    return WandbLogger(
        name=str(folder), save_dir=str(folder), project=os.environ.get("WANDB_PROJECT", PROJECT), mode=mode
    )


def _close_wandb(logger: Any, failed: bool) -> None:
    import wandb

    logger.experiment.finish(exit_code=int(failed))
    wandb.teardown()  # its service writes the run's file behind our back, until it ends


def _open_mlflow(folder: Path, first_step: int) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger

    folder.mkdir(parents=True, exist_ok=True)
    local = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    return MLFlowLogger(
        experiment_name=PROJECT,
        run_name=str(folder),
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or local,
        artifact_location=None if os.environ.get("MLFLOW_TRACKING_URI") else str(folder.resolve() / "mlflow"),
    )


def _markdown(data: pl.DataFrame) -> str:
    """A table in Markdown; line breaks and bars in a cell stay within it."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"

    return "\n".join([line(data.columns), line(["-"] * data.width), *(line(row) for row in data.iter_rows())])


_OPEN: dict[Logger, Callable[[Path, int], Any]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "mlflow": _open_mlflow,
}
_TABLE: dict[Logger, Callable[[Any, str, pl.DataFrame, int], None]] = {
    "tensorboard": lambda logger, title, data, step: logger.experiment.add_text(title, _markdown(data), step),
    "wandb": lambda logger, title, data, step: logger.log_text(title, data.columns, list(data.iter_rows()), step=step),
    "mlflow": lambda logger, title, data, step: logger.experiment.log_text(
        logger.run_id, _markdown(data), f"{title}/{step}.md"
    ),
}

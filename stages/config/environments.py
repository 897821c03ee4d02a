"""Settings of where rules run: generating, training and handling data each need libraries of their own."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stages.config.base import Section, Speed


class EnvironmentSettings(Section):
    """Where one kind of rule runs; as it is: where Snakemake does."""

    python: Speed[Path | None] = Field(
        None, description="The `python` of a virtual environment; what is installed beside it is found first, too."
    )
    container: Speed[str | None] = Field(
        None, description="Or a container image that has a `python`: `docker://...`, or a `.sif` or `.sqsh` file."
    )

    @model_validator(mode="after")
    def _one_place(self) -> "EnvironmentSettings":
        if self.python and self.container:
            raise ValueError("an environment is either `python` or `container`, not both")
        if self.python and self.python.name != "python":
            raise ValueError(
                f"environments: {self.python} must end in `/python`: rules call it, and programs beside it, by name"
            )
        return self


class EnvironmentsSection(Section):
    """Environments of the rules (docs/environments.md)."""

    generate: EnvironmentSettings = Field(EnvironmentSettings(), description="Rules that open an engine.")
    train: EnvironmentSettings = Field(EnvironmentSettings(), description="Rules that compute on Megatron's ranks.")
    data: EnvironmentSettings = Field(EnvironmentSettings(), description="All other rules.")
    runtime: Speed[Literal["apptainer", "pyxis"]] = Field(
        "apptainer",
        description="What runs containers: `apptainer`, through Snakemake (`--software-deployment-method apptainer`), "
        "or `pyxis`, Slurm's plugin.",
    )
    mounts: Speed[list[Path]] = Field(
        [], description="`pyxis`: further folders that jobs see, such as those of models. Others: `--apptainer-args`."
    )

    @model_validator(mode="after")
    def _data_needs_no_scheduler(self) -> "EnvironmentsSection":
        if self.data.container and self.runtime == "pyxis":
            raise ValueError(
                "environments.data.container: rules that handle data run where Snakemake does, without `pyxis`; set "
                "environments.data.python, or environments.runtime to `apptainer`"
            )
        return self

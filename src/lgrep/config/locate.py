"""Where the configuration files are: beside the checkout's entry points, or inside the installed wheel."""

from __future__ import annotations

from pathlib import Path

from lgrep.errors import ConfigError


def config_folder() -> Path:
    """The folder `configs/` of the checkout, or its copy in the wheel (`lgrep/configs`)."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parents[1] / "configs"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise ConfigError(f"the configuration files are missing (looked beside {package}); reinstall lgrep")

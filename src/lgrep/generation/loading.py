"""Pipelines by name or folder, with errors that say what to download and what to type."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from lgrep.data.notices import shown
from lgrep.errors import CheckpointError, ConfigError, did_you_mean
from lgrep.generation.settings import EMOJI, Generator

_LIBRARIES = ("diffusers", "transformers")  # that a pipeline folder may name; its description is a user's file
_INDEX = "model_index.json"
_CHECKER = ("safety_checker", "feature_extractor")


def load_pipeline(settings: Generator, device: str) -> Any:
    """The pipeline on a device, silent, its scheduler replaced where asked.

    Raises:
        ConfigError: diffusers is missing, or settings that the pipeline does not have.
        CheckpointError: no weights; says what to download.
    """
    diffusers = require_diffusers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers tells of names that it will change
        pipe = (
            _emoji(settings, None) if settings.pipeline == EMOJI else _from_folder_or_hub(diffusers, settings, device)
        )
    if isinstance(pipe, _own_class()):
        pipe = pipe.to(getattr(torch, settings.precision(device)))
    _replace_scheduler(diffusers, pipe, settings)
    _less_memory(pipe, settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def require_diffusers() -> Any:
    """The module diffusers, its messages turned off.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"generation needs the extra ({error.name} is missing): pip install 'lgrep[generation]'"
        ) from error
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity(logging.CRITICAL)
        library.utils.logging.disable_progress_bar()
    return diffusers


def _own_class() -> Any:
    from lgrep.generation.emoji_pipeline import EmojiPipeline

    return EmojiPipeline


def _emoji(settings: Generator, folder: Path | None) -> Any:
    """The package's own pipeline, or another one of its kind in a folder."""
    from lgrep.generation.emoji_pipeline import load_emoji_pipeline

    if settings.safety != "off":
        raise _no_checker(settings)
    return load_emoji_pipeline(folder)


def _from_folder_or_hub(diffusers: Any, settings: Generator, device: str) -> Any:
    place: dict[str, Any] = {"revision": settings.revision, "local_files_only": True}
    description = _description(diffusers, settings, place)
    if description.get("_class_name") == _own_class().__name__:
        return _emoji(settings, Path(settings.pipeline).expanduser())
    _check_description(settings, description)
    listed = [name for name, value in description.items() if isinstance(value, list | tuple) and value[0]]
    extra: dict[str, Any] = {}
    if settings.safety == "off" and "safety_checker" in description:
        extra = dict.fromkeys(_CHECKER) | {"requires_safety_checker": False}
    elif settings.safety != "off" and not set(_CHECKER) <= set(listed):
        raise _no_checker(settings)
    try:
        return diffusers.DiffusionPipeline.from_pretrained(
            settings.pipeline,
            torch_dtype=getattr(torch, settings.precision(device)),
            use_safetensors=True,
            variant=settings.variant,
            **place,
            **extra,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"generator.pipeline={shown(settings.pipeline)} cannot be loaded ({_first_line(error)}). It must hold all "
            "parts as safetensors files, as `DiffusionPipeline.save_pretrained` writes them; copy it again"
        ) from error


def _description(diffusers: Any, settings: Generator, place: dict[str, Any]) -> dict[str, Any]:
    """Content of `model_index.json`; turns to the network only for a name that is not here, and only if it answers."""
    name = settings.pipeline
    load = diffusers.DiffusionPipeline.load_config
    looks_local = Path(name).expanduser().is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1
    try:
        return dict(load(str(Path(name).expanduser()) if looks_local else name, **place))
    except (OSError, ValueError):
        there = Path(name).expanduser().exists()
        reason = f"it has no {_INDEX} that can be read" if there else "there is no such folder"
    if not looks_local:
        import huggingface_hub

        try:
            huggingface_hub.HfApi().model_info(name, revision=settings.revision, timeout=10)
            place["local_files_only"] = False
            return dict(load(name, **place))
        except Exception as error:  # the client has many kinds of errors of several libraries
            reason = f"there is no such folder, and the hub cannot be asked: {_first_line(error)}"
    raise CheckpointError(
        f"generator.pipeline={shown(name)}: {reason}. "
        f"Where there is a network type `hf download {name if not looks_local else 'OWNER/NAME'} --local-dir DIR`, copy DIR "
        "here, and type generator.pipeline=DIR. generator=emoji needs no download"
    )


def _check_description(settings: Generator, description: dict[str, Any]) -> None:
    """Refuse a folder whose description would have other code imported."""
    import diffusers.pipelines

    for name, value in description.items():
        library = value[0] if isinstance(value, list | tuple) and value else None
        if library is None or library in _LIBRARIES or hasattr(diffusers.pipelines, str(library)):
            continue
        raise CheckpointError(
            f"generator.pipeline={shown(settings.pipeline)}: its part {shown(name)} is of {shown(library)}; only parts of "
            f"{' and '.join(_LIBRARIES)} are loaded"
        )


def _no_checker(settings: Generator) -> ConfigError:
    return ConfigError(
        f"generator.safety={settings.safety}: the pipeline {shown(settings.pipeline)} has no safety checker. Type "
        "generator.safety=off"
    )


def _replace_scheduler(diffusers: Any, pipe: Any, settings: Generator) -> None:
    if settings.scheduler is None:
        return
    fitting = {kind.__name__ for kind in getattr(pipe.scheduler, "compatibles", ())} | {type(pipe.scheduler).__name__}
    if settings.scheduler not in fitting:
        raise ConfigError(
            f"generator.scheduler={settings.scheduler} does not fit {type(pipe).__name__}; "
            f"{did_you_mean(settings.scheduler, fitting)}"
        )
    kind = getattr(diffusers, settings.scheduler)
    known = set(kind.__init__.__wrapped__.__code__.co_varnames) if hasattr(kind.__init__, "__wrapped__") else None
    for name in settings.scheduler_options:
        if known is not None and name not in known:
            raise ConfigError(f"generator.scheduler_options.{name}: {did_you_mean(name, known - {'self'})}")
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **settings.scheduler_options)


def _less_memory(pipe: Any, settings: Generator) -> None:
    asked = (
        ("attention_slicing", settings.attention_slicing, pipe, "enable_attention_slicing"),
        ("vae_slicing", settings.vae_slicing, getattr(pipe, "vae", None), "enable_slicing"),
        ("vae_tiling", settings.vae_tiling, getattr(pipe, "vae", None), "enable_tiling"),
    )
    for name, wanted, part, method in asked:
        if wanted and not hasattr(part, method):
            raise ConfigError(
                f"generator.{name}=true: {type(pipe).__name__} cannot do that. Type generator.{name}=false"
            )
        if wanted:
            getattr(part, method)()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Transforms: crops in the worker, batched augmentation on the device, parameters drawn once for both."""

from lgrep.data.transforms.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Params,
    Transform,
    augmenting,
    finish_view,
    render,
)
from lgrep.data.transforms.plain import EvalRecipe, WorkerTransform
from lgrep.data.transforms.recipe import Recipe

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "EvalRecipe",
    "Params",
    "Recipe",
    "Transform",
    "WorkerTransform",
    "augmenting",
    "finish_view",
    "render",
]

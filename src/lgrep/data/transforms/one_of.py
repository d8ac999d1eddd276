"""Views that are made by one of several transforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lgrep.data.transforms.base import Params, Transform, finish_view
from lgrep.data.views import SEPARATOR
from lgrep.errors import ConfigError


class OneOf:
    """One of several transforms for each view, with equal chances (SynCLR's global crops, arXiv 2312.17742).

    Args:
        options: transforms of the same normalisation.

    Raises:
        ConfigError: they normalise differently.
    """

    def __init__(self, options: Sequence[Transform]) -> None:
        self.options = list(options)
        self.mean, self.std = options[0].mean, options[0].std
        self.takes_arrays = all(getattr(option, "takes_arrays", False) for option in options)
        if any((option.mean, option.std) != (self.mean, self.std) for option in options):
            raise ConfigError("augment.views: transforms of one view must have the same mean and std")

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Params:
        """The chosen transform's choices, and `option`, its number."""
        option = int(rng.integers(len(self.options)))
        return {**self.options[option].draw(rng, width, height), "option": option}

    def worker(self, picture: Any, params: Mapping[str, Any], size: int) -> NDArray[Any]:
        return self._chosen(params).worker(picture, params, size)

    def reducible(self, params: Mapping[str, Any], size: int) -> float:
        """See `Recipe.reducible`; 1 where the chosen transform needs the whole picture."""
        reducible = getattr(self._chosen(params), "reducible", None)
        return 1.0 if reducible is None else float(reducible(params, size))

    def reduced(self, params: Mapping[str, Any], scale: int, width: int, height: int) -> Params:
        """See `Recipe.reduced`."""
        chosen: Any = self._chosen(params)
        return {**chosen.reduced(params, scale, width, height), "option": params["option"]}

    def finish(self, view: NDArray[Any], params: Mapping[str, Any]) -> NDArray[np.float32]:
        """See `finish_view`."""
        return finish_view(self._chosen(params), view, params)

    def collate(self, params: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """For every transform that was chosen: the places of its views (`0_index`), and its tensors (`0.name`)."""
        tensors: dict[str, Tensor] = {}
        for number, option in enumerate(self.options):
            places = [place for place, entry in enumerate(params) if entry["option"] == number]
            if places:
                tensors[f"{number}_index"] = torch.tensor(places)
                own = option.collate([params[place] for place in places])
                tensors |= {f"{number}.{name}": tensor for name, tensor in own.items()}
        return tensors

    @torch.no_grad()
    def device(self, pictures: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Every view by its transform: float32 [B, 3, H, W]."""
        views = torch.empty(pictures.shape, dtype=torch.float32, device=pictures.device)
        for number, option in enumerate(self.options):
            places = params.get(f"{number}_index")
            if places is not None:
                prefix = f"{number}."
                own = {name.removeprefix(prefix): t for name, t in params.items() if name.startswith(prefix)}
                views.index_copy_(0, places, option.device(pictures.index_select(0, places), own))
        return views

    def _chosen(self, params: Mapping[str, Any]) -> Transform:
        number: int = params["option"]
        return self.options[number]


def combinations(names: Iterable[str], transforms: Mapping[str, Transform]) -> dict[str, Transform]:
    """The transforms that views name together (`blurred|solarised`)."""
    return {
        name: OneOf([transforms[part] for part in name.split(SEPARATOR)]) for name in set(names) if SEPARATOR in name
    }

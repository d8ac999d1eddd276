"""k nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import PositiveFloat, PositiveInt

from lgrep.evaluation.contract import Score, Task
from lgrep.evaluation.evaluators.linear import labelled, refuse_unlabelled
from lgrep.evaluation.knn import knn_grid
from lgrep.evaluation.linear import mean_per_class, top1

PLAIN = None


class KNN:
    """Votes of the most similar training pictures on every test picture, by cosine, features as they come.

    `knn` is the plain vote of `k` neighbours, `knn_weighted` the one in which a neighbour of cosine s has
    exp(s / temperature) votes (Wu et al., arXiv 1805.01978; DINO, arXiv 2104.14294); `knn_k5`,
    `knn_weighted_k5`, ... are the same for the other numbers of neighbours, all from one pass.

    Args:
        k: neighbours of the headline.
        k_grid: further numbers of neighbours. Those above the number of training pictures are left out.
        temperature: of the weighted vote.
    """

    name = "knn"

    def __init__(
        self,
        k: PositiveInt = 20,
        k_grid: tuple[PositiveInt, ...] = (1, 5, 10, 20, 50, 100, 200),
        temperature: PositiveFloat = 0.07,
    ) -> None:
        self.k, self.k_grid, self.temperature = k, k_grid, temperature

    def refusal(self, task: Task) -> str | None:
        """Sets without classes, training or test part, and several classes per picture."""
        missing = refuse_unlabelled(task)
        if missing is None and task.labels_of("train").ndim == 2:
            return f"pictures of {task.dataset.name} have several labels"
        return missing

    def __call__(self, task: Task) -> Iterator[Score]:
        """One score."""
        gallery, labels = labelled(task, "train")
        queries, wanted = labelled(task, "test")
        k = min(self.k, len(gallery))
        ks = sorted({k, *(other for other in self.k_grid if other <= len(gallery))})
        found = knn_grid(
            gallery.to(task.device),
            labels,
            queries.to(task.device),
            ks,
            task.dataset.num_classes,
            (PLAIN, self.temperature),
        )
        values: dict[str, float] = {}
        predictions = {"knn": found[k, PLAIN].cpu(), "knn_weighted": found[k, self.temperature].cpu()}
        for name, predicted in predictions.items():
            values |= {name: top1(predicted, wanted), f"{name}_per_class": mean_per_class(predicted, wanted)}
        for name, temperature in (("knn", PLAIN), ("knn_weighted", self.temperature)):
            values |= {f"{name}_k{other}": top1(found[other, temperature].cpu(), wanted) for other in ks}
        settings = {
            "k": k,
            "k_grid": ks,
            "similarity": "cosine",
            "vote": "plain; weighted: exp(cosine / temperature)",
            "temperature": self.temperature,
            "classes": task.dataset.num_classes,
            "gallery": len(labels),
            "queries": len(wanted),
        }
        yield Score("knn", settings, values, predictions, ("knn",))

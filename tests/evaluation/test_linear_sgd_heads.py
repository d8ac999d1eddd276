from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from lgrep.evaluation.augmented import AugmentedPictures
from lgrep.evaluation.sgd_heads import SGDHeads


def test_heads_equal_separate_classifiers_under_torchs_sgd() -> None:
    torch.manual_seed(0)
    rates, steps = (0.1, 0.7), 12
    heads = SGDHeads(rates, (False, True), dim=5, num_classes=3, total_steps=steps, seed=4)
    batches = [(torch.randn(16, 5) * 2 + 1, torch.randint(3, (16,))) for _ in range(steps)]
    twins = {}
    for group, norm in enumerate((False, True)):
        for position, rate in enumerate(rates):
            linear = nn.Linear(5, 3)
            linear.weight.data.copy_(heads.weight[group, position])
            linear.bias.data.zero_()
            layers = [nn.BatchNorm1d(5, affine=False, eps=1e-6, momentum=0.1), linear] if norm else [linear]
            model = nn.Sequential(*layers)
            optimiser = torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9)
            twins[group, position] = model, optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for features, labels in batches:
        heads.train_step(features, labels)
        for model, optimiser, schedule in twins.values():
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(features), labels).backward()
            optimiser.step()
            schedule.step()
    test = torch.randn(9, 5) * 3
    logits = heads.logits(test)
    for (group, position), (model, _, _) in twins.items():
        torch.testing.assert_close(logits[group, position], model.eval()(test), atol=1e-4, rtol=1e-4)
    assert torch.equal(heads.predict(test, block=4), logits.argmax(3))


def test_augmented_pictures_depend_on_seed_pass_and_row_alone() -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)) for _ in range(4)]

    def pixels(rows: list[int], seed: int, number: int, position: int) -> np.ndarray:
        return np.asarray(AugmentedPictures(pictures, torch.tensor(rows), 12, seed, number)[position])

    reference = pixels([0, 2, 3], 1, 5, 1)
    assert reference.shape == (12, 12, 3)
    assert np.array_equal(reference, pixels([2], 1, 5, 0))
    for other in (pixels([2], 1, 6, 0), pixels([2], 2, 5, 0), pixels([3], 1, 5, 0)):
        assert not np.array_equal(reference, other)
    assert AugmentedPictures(pictures, torch.tensor([3]), 12, 0, 0).identity(0) == "picture 3"

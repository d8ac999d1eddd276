"""Truncated Newton method for penalised logistic regression (Nocedal & Wright, Numerical Optimization, chapter 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrep.evaluation.logistic import Problem

CG_STEPS = 60
SUFFICIENT = 1e-4  # Armijo's constant
HALVINGS = 20


@dataclass
class Point:
    """Where the minimisation stands.

    Attributes:
        weight: [K, R + 1], the bias last.
        logits: [N, K] of the design's rows.
        objective: mean loss + penalty |W|^2 / 2.
        gap: estimate of how far the objective is above its minimum.
        steps: Newton steps taken.
    """

    weight: Tensor
    logits: Tensor
    objective: float = math.nan
    gap: float = math.inf
    steps: int = 0


def objective(problem: Problem, point: Point, penalty: float) -> float:
    """Mean loss + penalty |W|^2 / 2, the last column of the weight (the bias) left out of the penalty."""
    return problem.loss([point.logits], [1.0]) + 0.5 * penalty * squares(point.weight, point.weight)


def minimise(
    problem: Problem, penalty: float, start: Point, tolerance: float, max_steps: int, slack: float = 0.0
) -> Point:
    """Minimise mean loss + penalty |W|^2 / 2 from `start`.

    Gradients are exact, their Newton systems are solved by conjugate gradients with coarse products and the
    diagonal of the Hessian as preconditioner.

    Args:
        problem: features and loss.
        penalty: above 0.
        start: weight and logits.
        tolerance: stop when the objective is estimated to lie above its minimum by no more than this share of its
            value, and of what it gained on the bias alone (under a strong penalty only that tells fits apart).
        max_steps: Newton steps.
        slack: nats per row that the objective may lie above its minimum in any case.
    """
    weight, logits = start.weight, start.logits
    value = objective(problem, start, penalty)
    floor = 1e-7 if weight.dtype == torch.float32 else 1e-14  # gradients of that precision see no further
    gap, steps, empty = math.inf, 0, problem.link.empty()
    while math.isfinite(value):
        allowed = max(slack, tolerance * min(value, abs(empty - value)) + floor)
        probabilities, gradient, spread = problem.derive(logits)
        gradient[:, :-1] += penalty * weight[:, :-1]
        diagonal = _diagonal(problem, spread, penalty)
        gap = 0.5 * float((gradient.square() / diagonal).sum())
        if 4 * gap <= allowed or steps == max_steps:  # the diagonal alone judges too kindly
            break
        # the square root makes convergence superlinear near the minimum; a rough direction will do far from it
        forcing = min(0.25, max(0.02, math.sqrt(allowed / gap)))
        direction = _direction(problem, penalty, probabilities, gradient, diagonal, forcing)
        slope = float((gradient * direction).sum())
        shift = problem.design.logits(direction)
        found = _line_search(problem, penalty, (weight, logits), (direction, shift), value, slope)
        steps += 1
        if found is None:
            break
        length, reached = found
        weight, logits = weight + length * direction, torch.add(logits, shift, alpha=length)
        expected, gained = -0.5 * slope, value - reached
        value = reached
        gap = abs(gained - expected) + forcing * expected
        if gained <= max(floor, value * torch.finfo(weight.dtype).eps) or (length == 1 and gap <= allowed):
            break
    return Point(weight, logits, value, gap, steps)


def _direction(
    problem: Problem, penalty: float, probabilities: Tensor, gradient: Tensor, diagonal: Tensor, forcing: float
) -> Tensor:
    """Approximate -H^-1 gradient by preconditioned conjugate gradients."""
    direction = torch.zeros_like(gradient)
    residual = -gradient
    scaled = residual / diagonal
    search = scaled.clone()
    energy = (residual * scaled).sum()
    goal = forcing**2 * energy
    for _ in range(CG_STEPS):
        curved = problem.curved(probabilities, search)
        curved[:, :-1] += penalty * search[:, :-1]
        bend = (search * curved).sum()
        if not bend > 0:  # the rounding of coarse products has the better of a flat direction
            break
        length = energy / bend
        direction += length * search
        residual -= length * curved
        scaled = residual / diagonal
        after = (residual * scaled).sum()
        if after <= goal:
            break
        search = scaled + (after / energy) * search
        energy = after
    return direction if (gradient * direction).sum() < 0 else -gradient / diagonal


def _line_search(
    problem: Problem,
    penalty: float,
    at: tuple[Tensor, Tensor],
    along: tuple[Tensor, Tensor],
    value: float,
    slope: float,
) -> tuple[float, float] | None:
    """(step length, objective there) with a sufficient decrease, halving from 1; None when there is none.

    `at` and `along` are weights [K, R + 1] and logits [N, K] of the point and of the direction.
    """
    own, cross, other = squares(at[0], at[0]), squares(at[0], along[0]), squares(along[0], along[0])
    slack = abs(value) * torch.finfo(at[0].dtype).eps
    length = 1.0
    for _ in range(HALVINGS):
        size = own + 2 * length * cross + length**2 * other
        reached = problem.loss([at[1], along[1]], [1.0, length]) + 0.5 * penalty * size
        if reached <= value + SUFFICIENT * length * slope + slack:
            return length, reached
        length /= 2
    return None


def _diagonal(problem: Problem, spread: Tensor, penalty: float) -> Tensor:
    """Diagonal of the Hessian, the mean weight of a class standing for its weight in every row."""
    diagonal = spread[:, None] * problem.design.moments
    diagonal[:, :-1] += penalty
    return diagonal.clamp_min_(torch.finfo(diagonal.dtype).tiny ** 0.5)


def squares(a: Tensor, b: Tensor) -> float:
    """Inner product of two weights [K, R + 1] without their biases, in float64."""
    return float((a[:, :-1].double() * b[:, :-1].double()).sum())

"""What a router measures of itself, for losses that balance experts."""

from typing import NamedTuple

from jax import Array


class Routing(NamedTuple):
    """How routers divided tokens among experts, float32 sums over those tokens and over layers.

    Attributes:
        visit_E: visits of an expert.
        probability_E: of an expert, softmax of a token's scores; of sigmoid scores the share of their sum.
        squared_logsumexp: of a token's scores.
        tokens: how many, each counted in each layer.
    """

    visit_E: Array
    probability_E: Array
    squared_logsumexp: Array
    tokens: Array

"""Whether draws follow their distribution."""

import numpy as np


def surprise(chosen, probabilities) -> float:
    """Returns how much draws disagree with their distributions, in standard errors.

    The probability of a draw is on average the sum of squares; a draw from another distribution has less.

    Args:
        chosen: `[draws]` classes.
        probabilities: `[draws, classes]`.
    """
    probabilities = np.asarray(probabilities, np.float64)
    chosen = np.asarray(chosen)
    difference = probabilities[np.arange(len(chosen)), chosen] - np.sum(probabilities**2, axis=-1)
    return abs(float(difference.mean() / (difference.std() / len(chosen) ** 0.5)))

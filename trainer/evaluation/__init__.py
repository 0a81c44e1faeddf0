"""Evaluation of a trained model: scores of its predictions, metrics of its music, and baselines."""

"""Trains a next-note model on a dataset, scores it and plays it."""

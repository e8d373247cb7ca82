"""Predictions, metrics, baselines, user effects and the verdict."""

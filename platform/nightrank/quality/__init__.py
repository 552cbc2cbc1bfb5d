"""Metrics, evaluation and the gates."""

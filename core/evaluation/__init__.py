"""Predictions + references → report: counts, overlap, volumes; no torch."""

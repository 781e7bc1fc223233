"""Trained models in and out: official ones and ours, read without running what they name."""

"""Preprocessed cases → trained weights: patches, augmentation, loss, optimisation; no sliding window."""

"""Datasets of older layouts → nnU-Net v2."""

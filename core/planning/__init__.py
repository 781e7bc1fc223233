"""Fingerprint → plan; arithmetic without voxels or files."""

"""The networks that a plan can name; no data."""

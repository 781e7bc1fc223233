"""Alembic: how the tables came to be, one revision per change."""

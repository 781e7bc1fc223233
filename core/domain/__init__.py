"""The nouns of the method: standard library and pydantic only; no arrays, no files."""

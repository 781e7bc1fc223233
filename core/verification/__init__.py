"""Whether a dataset can be used: every problem of every case at once, and what deserves a look."""

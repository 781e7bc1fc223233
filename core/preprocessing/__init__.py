"""From an image as it was acquired to the arrays that a network is fed: no torch."""

"""A thin seam between the service's jobs and the engine's verbs."""

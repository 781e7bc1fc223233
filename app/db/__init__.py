"""Tables and sessions; no HTTP, no queue."""

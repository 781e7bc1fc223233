"""HTTP: what goes over the wire, translated into calls of the services; no SQL, no business rule."""

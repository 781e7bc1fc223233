"""What users want, one function per intention; synchronous, no HTTP."""

"""Files ↔ arrays: the only room that knows SimpleITK and its (x, y, z) order."""

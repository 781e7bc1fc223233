"""The engine: segmentation networks that configure themselves. Importing it costs nothing."""

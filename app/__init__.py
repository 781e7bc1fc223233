"""The web service: what users want, as rows and files; it never touches a voxel."""

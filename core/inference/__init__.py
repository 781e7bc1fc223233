"""Image + trained model → segmentation on the image's own grid."""

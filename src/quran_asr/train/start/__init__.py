"""Where weights come from: random ones that let a signal through, or a trained model."""

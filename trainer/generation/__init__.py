"""Generation of music with a trained model."""

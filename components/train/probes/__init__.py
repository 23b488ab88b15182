"""What a trained model can do, measured for the benchmark."""

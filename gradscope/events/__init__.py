"""What is on disk: TensorBoard's event files, written and read."""

"""What can be trained: data, parameters and a loss each."""

"""A photograph as numbers, and what the numbers mean. Pillow and NumPy, no TensorFlow."""

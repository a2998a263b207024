"""A run's folder: what is kept, and how a run goes on."""

"""Tools that know nothing of images or networks."""

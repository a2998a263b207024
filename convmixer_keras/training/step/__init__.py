"""What one step of training does on a device."""

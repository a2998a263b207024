"""What is installed as a command."""

"""What to do next with a file that was written, as commands to copy."""

import os
import shlex


def page(tflite_file):
    """Returns the command that shows a file on the page, in a list; an empty one outside of a checkout."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script = os.path.join(checkout, "examples", "web", "serve.py")
    if not os.path.exists(script):
        return []
    near = os.path.relpath(script)
    return [["python", script if near.startswith("..") else near, tflite_file]]


def lines(commands):
    """Returns commands, each a list of words, as lines for a shell."""
    return "\n".join(f"  {shlex.join(command)}" for command in commands)

"""Tools that every folder uses: errors, argument checks, files, progress, command lines."""

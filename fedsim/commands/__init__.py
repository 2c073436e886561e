"""The verbs of the command line, a file each; torch is imported by the ones that need it, when they run."""

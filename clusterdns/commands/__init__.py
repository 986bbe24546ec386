"""The commands of the command line, one file each; no process that serves imports the others."""

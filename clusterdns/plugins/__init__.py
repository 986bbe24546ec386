"""One file for each Corefile directive, named like it; its docstring is the manual."""

"""One file a Corefile directive; the file's name is the directive, its docstring the manual."""

"""The rules of `rewrite`, which change questions and replies."""

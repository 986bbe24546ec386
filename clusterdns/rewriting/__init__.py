"""What `rewrite` does, as values: rules that change questions, and what they do to replies."""

"""The replies `cache` keeps: options, rules, and bounded stores."""

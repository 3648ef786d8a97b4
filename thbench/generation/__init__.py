"""Plans, strategies, and the runner that generates videos with them."""

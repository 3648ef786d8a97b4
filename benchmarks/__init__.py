"""What a change or a claim is measured with; a module runs as ``python -m benchmarks.NAME``."""

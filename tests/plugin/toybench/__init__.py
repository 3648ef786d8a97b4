"""A strategy, a metric and an extractor, as another package has them."""

"""From raw videos to a prepared data set."""

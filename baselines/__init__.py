"""Generation strategies that DAWN is compared with; YAML names them, nothing imports them."""

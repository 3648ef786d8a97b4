"""What can be known of training and evaluation before the first step."""

"""What runs have reached: their records, scores and pictures."""

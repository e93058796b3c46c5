"""What the thesis builds on, on laws whose scores are exact: bounds, flows, guidance [T 2, A]."""

"""What several subjects of the analysis need: sparse codes, pooling, intervals, random twins."""

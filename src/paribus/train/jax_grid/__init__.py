"""Many small runs of equal shapes as one compiled program."""

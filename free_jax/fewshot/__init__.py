"""Few-shot episodes: drawn, learned from, classified, scored."""

"""What is wrong with a data set: broken files, duplicates, doubtful labels, imbalance."""

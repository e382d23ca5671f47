"""Reports and plots: HTML pages and PNG files made from evaluation results."""

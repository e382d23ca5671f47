"""How good is a model, how far can its confidence be trusted, and what does it get wrong? Numbers, plots, one page.

    logits        checks and the log softmax, in float64
    calibration   temperature, negative log likelihood, reliability bins, expected calibration error
    metrics       Scores: accuracy with its interval, top-k, per class, confusion matrix
    unknown       "none of the classes": candidate scores, AUROC, threshold
    significance  hypothesis tests: McNemar, Kolmogorov-Smirnov, G-test
    comparison    two models on the same pictures
    drift         answers of now against answers of the validation pictures
    evaluate      runs a Predictor over a Dataset
    gallery       the most confident mistakes and the most confused pairs
    plots         PNGs (needs matplotlib, of the [train] extra)
    page, report  report.html

Knows data sets and model files; knows neither torch nor HTTP.
"""

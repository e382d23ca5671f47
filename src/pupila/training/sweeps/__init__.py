"""Sweeps: many trainings of one data set, one table, one plot, and the best model. Trials are the ordinary `train`."""

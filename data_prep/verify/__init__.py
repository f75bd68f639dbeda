"""`python -m data_prep.verify`: finds what is wrong with a data set before days are trained on it."""

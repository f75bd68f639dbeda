"""Builders that turn raw or generated data sets into TFRecords: `python -m data_prep.build --help`."""

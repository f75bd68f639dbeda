"""Labels, augmentation and the tf.data pipeline that turns prepared TFRecords into numpy batches."""

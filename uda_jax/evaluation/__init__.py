"""How good a segmenter is: confusion matrices, IoU, and a pass over a labelled split."""

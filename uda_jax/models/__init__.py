"""Networks: backbones and heads (`contract` says what they are), the `segmenter` of one and the other,
the discriminator, and `networks`, the two players as functions of their parameters."""

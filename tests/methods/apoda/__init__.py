"""APODA: attack and objective on features, head and discriminator alone, in float64; then whole steps."""

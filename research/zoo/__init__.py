"""Pre-training of the zoo: small backbones of five families."""

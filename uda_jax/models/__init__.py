"""Networks: backbones, the DeepLab-v2 head, the discriminator and the layers they share."""

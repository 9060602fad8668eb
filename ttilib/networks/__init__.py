"""Former place of the encoders, kept for the plug-in name `ttilib.networks.imagenet:resnet50`."""

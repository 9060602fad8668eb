"""Alias of `ttilib.encoders.layers` for the plug-in name `ttilib.networks.imagenet:resnet50`."""

from ttilib.encoders.layers import resnet50, resnet50_untrained

__all__ = ["resnet50", "resnet50_untrained"]

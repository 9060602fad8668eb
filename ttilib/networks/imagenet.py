"""Alias of `ttilib.encoders` for the plug-in names `ttilib.networks.imagenet:lite2` and `:resnet50`.

NAME.means.safetensors, NAME its fingerprint, has the mean of lite2 over 200 images of Pascal VOC 2012, short side 241:
python -m ttilib means JPEGImages --encoder ttilib.networks.imagenet:lite2 --out NAME.means.safetensors
"""

from ttilib.encoders.pretrained import lite2, resnet50, resnet50_untrained

__all__ = ["lite2", "resnet50", "resnet50_untrained"]

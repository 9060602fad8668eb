"""What the form for inference saves per frame, beside the network itself, alternately in one process.

    python perf/encoder.py [SPEC ...] [--size 241 425] [--frames 2] [--pairs 5] [--threads 1] [--openvino]

Without SPEC: the default encoder of `segment` (random weights where its package is missing), torchvision's ResNet-50 up
to layer3 and a ResNet-50 with pyramid, both with random weights. --openvino: also compiled by OpenVINO.
"""

from __future__ import annotations

import argparse
import time
import warnings
from statistics import median

import torch

from ttilib.encoders.checkpoints import load_encoder
from ttilib.encoders.layers import OPENVINO, MultiLayerEncoder, for_inference
from ttilib.encoders.pretrained import DEFAULT, load_named

LITE = "timm:tf_efficientnet_lite2@blocks.4+blocks.5"


def measured(encode, images: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """CPU and wall milliseconds per frame, and the features."""
    cpu, wall = time.process_time(), time.perf_counter()
    with torch.no_grad():
        features = encode(images)
    return *(1000 * each / len(images) for each in (time.process_time() - cpu, time.perf_counter() - wall)), features


def encoder_of(spec: str):
    try:
        return load_encoder(spec)
    except ModuleNotFoundError:
        return load_named(LITE, pretrained=False)


def line(name: str, values: list[float], unit: str) -> None:
    print(f"  {name:<22}{median(values):8.2f} ({min(values):.2f} to {max(values):.2f}) {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="*", default=[DEFAULT, "ttilib.networks.imagenet:resnet50_untrained", "resnet50"])
    parser.add_argument("--size", type=int, nargs=2, default=(241, 425), help="H W")
    parser.add_argument("--frames", type=int, default=2, help="in one batch")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--openvino", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "encoder .* has untrained weights")
    images = torch.randn(options.frames, 3, *options.size, generator=torch.Generator().manual_seed(0))
    for spec in options.spec:
        network = encoder_of(spec)
        ways = {"network": MultiLayerEncoder(network), "form": for_inference(network)}
        for device, precision in OPENVINO.items() if options.openvino else ():
            ways[device] = for_inference(network, precision=precision)
        first = {name: measured(encode, images)[2] for name, encode in ways.items()}  # compiles, and warms caches
        found = [{name: measured(encode, images) for name, encode in ways.items()} for _ in range(options.pairs)]
        print(f"{spec}, {options.frames} frames of {options.size[0]} x {options.size[1]}, {options.threads} threads")
        for name in ways:
            for kind, unit in enumerate(("CPU ms", "wall ms")):
                line(name, [each[name][kind] for each in found], unit)
            if name != "network":
                line("network / " + name, [each["network"][0] / each[name][0] for each in found], "times, CPU")
                error = (first[name] - first["network"]).norm() / first["network"].norm()
                print(f"  {'relative error':<22}{error:8.1e}")


if __name__ == "__main__":
    main()

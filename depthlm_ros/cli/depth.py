"""`depthlm depth`: writes the depth of one image to a file. Heavy imports are inside, so that a help text is fast."""

from __future__ import annotations

import argparse
from pathlib import Path

from depthlm_ros.cli.common import add_image_options, read_frame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_image_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npy", help="where to write the depth, float32")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="also draw it in colours, with a scale in metres"
    )


def run(args: argparse.Namespace) -> None:
    """Writes the depth of one image as a float32 (H, W) .npy file: metres along the optical axis, NaN = unknown."""
    import numpy as np

    from depthlm_ros.image_io import write_rgb
    from depthlm_ros.model import load_model
    from depthlm_ros.visualization import depth_picture

    model = load_model(args.model, args.backend, device=args.device)
    view = model.look(read_frame(args.image, args.intrinsics))
    depth_m = view.depth(with_std=False).depth_m.astype(np.float32, copy=False)
    with args.out.open("wb") as file:
        np.save(file, depth_m)
    known_m = depth_m[np.isfinite(depth_m)]
    span = f"{known_m.min():.2f} to {known_m.max():.2f} m" if known_m.size else "all depths are unknown"
    print(f"{args.out}: {depth_m.shape[1]} x {depth_m.shape[0]}, {span}")
    if args.picture:
        write_rgb(args.picture, depth_picture(depth_m))
        print(f"{args.picture}: the same in colours")

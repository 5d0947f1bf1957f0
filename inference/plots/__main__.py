"""``python -m inference.plots demo gallery``: every figure of a demo as PNG files, with an index that shows them."""

import argparse
import sys
from pathlib import Path

from inference.plots.gallery import write_gallery

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m inference.plots", description="Draw every figure of a demo's folder.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="folder that pi-vae demo wrote")
    parser.add_argument("output", type=Path, nargs="?", default=Path("gallery"), help="folder to write")
    parser.add_argument("--pixel", type=int, default=0, help="position among the pixels of posterior.nc")
    arguments = parser.parse_args()
    try:
        print(write_gallery(arguments.folder, arguments.output, arguments.pixel))
    except (ValueError, OSError) as error:
        sys.exit(f"inference.plots: {error}")

"""``python -m pi_vae --version``: what is installed; the jobs themselves are commands of ``pi-vae``."""

import argparse

from pi_vae.versions import versions

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m pi_vae", description="Jobs are commands of pi-vae: see pi-vae --help.")
    table = "\n".join(f"{name:18} {value}" for name, value in versions().items())
    parser.add_argument("--version", action="store_true", help="print versions of the package and of what it stands on")
    print(table if parser.parse_args().version else parser.format_help().rstrip())

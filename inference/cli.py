"""Command line ``pi-vae``, thin over the Python interface."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let a file of settings say what the command line does not."""
    if path is None or context.resilient_parsing:
        return path
    from inference.configuration import read, section

    program: Any = context.find_root().command
    settings = read(path, [command.name for command in program.commands.values()])
    options = [parameter.name for parameter in context.command.params if parameter.name != "config"]
    context.default_map = section(settings, context.command.name or "", options, path)
    context.obj = settings.get("model", {})
    return path


def _versions(asked: bool) -> None:
    """Print versions and end."""
    if asked:
        from pi_vae.versions import versions

        typer.echo("\n".join(f"{name:18} {value}" for name, value in versions().items()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print versions of what matters.", callback=_versions, is_eager=True)
    ] = False,
) -> None:
    """Physics with error bars from Sentinel-1 and Sentinel-2 time series."""


def _silent(context: typer.Context, quiet: bool) -> bool:
    """No word but errors until the command ends."""
    if quiet:
        root = logging.getLogger()
        context.call_on_close(partial(root.setLevel, root.level))
        root.setLevel(logging.ERROR)
    return quiet


Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML or YAML file of settings: one section a command, and one of the model.",
        callback=_from_file,
        is_eager=True,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", callback=_silent)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder or store to write.")]
Cube = Annotated[str, typer.Argument(help="A netCDF file or zarr folder of a cube, or the name of a sample.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@app.command()
def demo(
    output: Output = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="The small form: fewer steps and draws.")] = False,
    seed: Seed = 0,
    source: Annotated[str, typer.Option(help="A sample or a file of a cube.")] = "worldcereal_patch_belgium",
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Fit the sample cube and write posterior, maps, figures, laws, scores and a report.

    Example: pi-vae demo --quick --output demo
    """
    from inference.demo import demo as run_demo

    run_demo(output, quick=quick, seed=seed, source=source, progress=not quiet)


@app.command()
def fit(
    context: typer.Context,
    cube: Cube,
    output: Output = Path("run"),
    steps: Annotated[int, typer.Option(help="Optimisation steps.")] = 1500,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    patches: Annotated[int, typer.Option(help="Patches per step.")] = 6,
    patch_size: Annotated[int, typer.Option(help="Side of a patch in pixels.")] = 24,
    pixels: Annotated[int, typer.Option(help="Pixels per step whose series are modelled.")] = 384,
    learning_rate: Annotated[float, typer.Option(help="Peak step size of Adam.")] = 5e-3,
    hide_modality: Annotated[float, typer.Option(help="Chance that a sensor is hidden; more to translate.")] = 0.05,
    holdout: Annotated[float, typer.Option(help="Share of the pixels held out, for some hundred series.")] = 0.0,
    terms: Annotated[list[str] | None, typer.Option(help="Term that holds residuals back; again for more.")] = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Fit a model to a cube; resumes from the output folder.

    Example: pi-vae fit worldcereal_patch_belgium --output run --steps 1500

    Example: pi-vae fit tile.zarr --config tile.toml
    """
    import torch

    from inference import fit as run_fit
    from inference.configuration import build_model
    from pi_vae.data import open_cube

    data = open_cube(cube)
    torch.manual_seed(seed)
    run_fit(
        build_model(data, context.obj),
        data,
        steps,
        seed,
        device,
        checkpoint=output,
        patches=patches,
        patch_size=patch_size,
        pixels=pixels,
        learning_rate=learning_rate,
        hide_modality=hide_modality,
        holdout=holdout,
        terms=terms or (),
        progress=not quiet,
    )


@app.command()
def predict(
    cube: Cube,
    run: Annotated[Path, typer.Option(help="Folder of a fit.")] = Path("run"),
    output: Output = Path("maps.zarr"),
    draws: Annotated[int, typer.Option(help="Posterior draws per pixel.")] = 64,
    tile: Annotated[int, typer.Option(help="Side of a tile in pixels.")] = 50,
    reconstructions: Annotated[bool, typer.Option(help="Map what each modality is expected to see, too.")] = True,
    seed: Seed = 0,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write maps of every variable with its uncertainty to a zarr store; a store that exists is continued.

    Example: pi-vae predict worldcereal_patch_belgium --run run --output maps.zarr
    """
    from inference import load
    from inference import predict as run_predict
    from pi_vae.data import open_cube

    data = open_cube(cube)
    run_predict(load(run), data, output, draws, tile, seed, progress=not quiet, reconstructions=reconstructions)


@app.command()
def translate(
    cube: Cube,
    run: Annotated[Path, typer.Option(help="Folder of a fit.")] = Path("run"),
    source: Annotated[list[str], typer.Option(help="Modality to read; give it again for more.")] = ["s1"],  # noqa: B006
    target: Annotated[str, typer.Option(help="Modality to predict.")] = "s2",
    output: Output = Path("translated.nc"),
    pixels: Annotated[int, typer.Option(help="Pixels, drawn at random.")] = 250,
    draws: Annotated[int, typer.Option(help="Posterior draws per pixel.")] = 100,
    seed: Seed = 0,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Predict one sensor from others, with draws, to netCDF.

    Example: pi-vae translate worldcereal_patch_belgium --run run --source s1 --target s2
    """
    from inference import load
    from inference import translate as run_translate
    from pi_vae.data import open_cube

    tree = run_translate(load(run), open_cube(cube), source, target, draws=draws, pixels=pixels, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    tree.to_netcdf(output, engine="h5netcdf")
    shape = tree["posterior_predictive"][target].sizes
    dates = f"{shape['pixel']} pixels at {shape[f'{target}_time']} dates"
    if not quiet:
        typer.echo(f"{target} from {', '.join(source)}, {shape['draw']} draws of {dates}, in {output}")


@app.command()
def discover(
    cube: Cube,
    run: Annotated[Path, typer.Option(help="Folder of a fit.")] = Path("run"),
    target: Annotated[str, typer.Option(help="Modality whose residual is to be explained.")] = "s1",
    output: Output = Path("laws.json"),
    pixels: Annotated[int, typer.Option(help="Pixels whose residuals are used.")] = 250,
    seed: Seed = 0,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Look for the equation behind a residual; prints the Pareto front with its evidence.

    Example: pi-vae discover worldcereal_patch_belgium --run run --target s1
    """
    from inference import discover as run_discover
    from inference import load, posterior
    from pi_vae.data import open_cube

    data, fitted = open_cube(cube), load(run)
    if target not in fitted.model.modalities:
        known = ", ".join(fitted.model.modalities)
        raise ValueError(f"Target {target!r} is no modality of the run in {run}: give one of {known}.")
    laws = run_discover(posterior(fitted, data, draws=100, pixels=pixels, seed=seed), target=target, seed=seed)
    laws.to_json(output)
    if not quiet:
        typer.echo(str(laws))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a demo or of a fit.")] = Path("demo"),
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the report of a folder: the products of a demo, or the checkpoint of a fit.

    Example: pi-vae report demo

    Example: pi-vae report run
    """
    from inference.report import write_report

    page = write_report(folder)
    if not quiet:
        typer.echo(page)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 a foreseen error (one sentence on stderr), 2 a command that cannot be read, 130 interrupted;
    `fit` and `predict` go on from there when they are called again.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("pyro").setLevel(logging.WARNING)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"pi-vae: {error}", file=sys.stderr)
        sys.exit(1)

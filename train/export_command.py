"""genrep-export: the backbone of a run for other programs."""

from pathlib import Path

import click

from genrep.shards.cli import Command
from genrep.shards.errors import DataError

FORMATS = ("torchvision", "timm", "detectron2", "onnx")


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "export_format", type=click.Choice(FORMATS), default="torchvision", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@click.option("--quiet", is_flag=True, help="Only errors.")
def main(run: Path, export_format: str, out: Path, quiet: bool) -> None:
    """Write the backbone of RUN, a run folder (its last checkpoint) or a checkpoint file, for another program.

    \b
    torchvision  state dict that torchvision's model of that name loads strictly; its
                 classifier fc was not trained and is zero
    timm         state dict for timm.create_model(NAME, num_classes=0,
                 checkpoint_path=FILE), strictly (needs timm: the extra "timm")
    detectron2   .pth with the names of its ResNet, for MODEL.WEIGHTS; set
                 MODEL.RESNETS.STRIDE_IN_1X1 to False
    onnx         images (B, 3, S, S) in [0, 1] -> features (needs the extra "onnx")

    \b
    Example:
      genrep-export runs/data-simclr-seed0 --format torchvision --out resnet18.pth
    """
    from genrep.train.checkpoint import load_backbone
    from genrep.train.export import export

    try:
        backbone = load_backbone(run)
        export(backbone, out, format=export_format)
    except DataError as error:
        raise click.ClickException(str(error)) from error
    if not quiet:
        click.echo(f"{out}: {backbone.name} of {run} for {export_format}")

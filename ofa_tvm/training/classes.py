"""Whether images are of the classes that a network was trained on."""

from __future__ import annotations

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.imagenet import N_CLASSES, imagenet_names, imagenet_outputs
from ofa_tvm.training.data import ImageData


def data_for(data: ImageData, n_classes: int, network: str) -> ImageData:
    """The images as those of a network's classes.

    Images with the classes' own number are taken as they are. Of a network of 1,000 classes, folders named by
    WordNet ids (n01440764) may be a part of ImageNet's: their targets become those of the 1,000 outputs.

    Parameters
    ----------
    network
        What messages call it.

    Raises
    ------
    UsageError
        If the images are of other classes.
    UserError
        If they are a part of ImageNet's and have a class that ImageNet has not.
    """
    if data.n_classes == n_classes:
        return data
    if n_classes == N_CLASSES:
        try:
            if imagenet_outputs(data.labels) is not None:
                return data.among(tuple(imagenet_names()))
        except UserError as error:
            raise UserError(
                f"{network} has ImageNet's 1,000 classes, but in {data.name} there are {error}"
            ) from None
    raise UsageError(
        f"{network} has {n_classes} classes, the images in {data.name} have {data.n_classes}; name the "
        "images it was trained on, or train it on these: ofa-tvm train --init CHECKPOINT --data IMAGES"
    )

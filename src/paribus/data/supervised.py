"""The settings of data for regression and classification: teachers whose labels are known functions, and images."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from paribus.config import Count, Fraction, PositiveCount, PositiveFloat, Section

NumSamples = Annotated[
    PositiveCount | None,
    Field(description="fixed data: so many samples, in a new order every epoch; null: fresh ones at every step"),
]


class Polynomial(Section):
    """y = (x . w)^degree with x ~ N(0, I), w ~ N(0, I) / sqrt(input_dim)."""

    kind: Literal["polynomial"] = "polynomial"
    input_dim: PositiveCount = 20
    degree: PositiveCount = 2
    num_samples: NumSamples = None
    num_heldout: PositiveCount = 4096


class MlpTeacher(Section):
    """y is the output of an MLP with random weights, not centred; x ~ N(0, I)."""

    kind: Literal["mlp_teacher"] = "mlp_teacher"
    input_dim: PositiveCount = 20
    width: PositiveCount = 32
    depth: PositiveCount = Field(2, description="weight matrices")
    gamma: PositiveFloat = 1.0
    parameterization: Literal["sp", "ntk", "mup"] = "mup"
    num_samples: NumSamples = None
    num_heldout: PositiveCount = 4096


class LinearTeacher(Section):
    """y = w . x with power-law spectra: x_i ~ N(0, i^-alpha), w_i ~ i^-(1/2 + alpha (beta - 1) / 2), Var(y) = 1."""

    kind: Literal["linear"] = "linear"
    input_dim: PositiveCount = 100
    alpha: PositiveFloat = Field(1.0, description="decay of the input's variances")
    beta: PositiveFloat = Field(1.5, description="w_i^2 i^-alpha falls as i^-(1 + alpha beta)")
    noise: Fraction = Field(0.0, description="rho: labels are sqrt(1 - rho) y + sqrt(rho) N(0, 1)")
    num_samples: NumSamples = None
    num_heldout: PositiveCount = 4096


class Digits(Section):
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn; a fifth of each class is held out."""

    kind: Literal["digits"] = "digits"


class Npz(Section):
    """An .npz with X_train, y_train, X_test, y_test, or x_train .., or train_images, train_labels, test_images, test_labels.

    Images are uint8, labels whole numbers 0 .. K - 1."""

    kind: Literal["npz"] = "npz"
    file: str


class Idx(Section):
    """A folder with the four files of MNIST as it was published, gzipped or not."""

    kind: Literal["idx"] = "idx"
    folder: str


ImageSource = Annotated[Digits | Npz | Idx, Field(discriminator="kind")]


class Images(Section):
    """Images of K classes: pixels shifted and scaled to mean 0 and variance 1 over the training set, labels one-hot."""

    kind: Literal["images"] = "images"
    source: ImageSource = Digits()
    num_samples: PositiveCount | None = Field(
        None, description="of the training images, drawn by seeds.data with equal shares of the classes; null: all"
    )
    resample: bool = Field(False, description="with num_samples: draw others for every epoch")
    num_heldout: PositiveCount | None = Field(None, description="the first so many test images; null: all")

    @model_validator(mode="after")
    def _resamples_some(self) -> "Images":
        if self.resample and self.num_samples is None:
            raise ValueError("resample: draws num_samples anew for every epoch, but num_samples is null: all are taken")
        return self


SupervisedData = Annotated[Polynomial | MlpTeacher | LinearTeacher | Images, Field(discriminator="kind")]


class SupervisedSeeds(Section):
    """Separate seeds, so that one thing can change alone."""

    data: Count = Field(0, description="samples, label noise and order")
    teacher: Count = Field(0, description="the teacher's weights")
    weights: Count = Field(0, description="the model's initial weights")


# --- from zips of images to an .npz: `paribus prepare ZIPS.yaml` -------------------------------------------------------


class ImageZips(Section):
    """Ten zips `class_0_images.zip` .. `class_9_images.zip`, as MNIST-1M comes in: they become one .npz of 28 x 28 pixels.

    Colours become their luma (ITU-R 601-2), transparency is ignored; every member of a zip must be an image."""

    kind: Literal["image_zips"]
    folder: str = Field(description="holds the ten zips")
    out: str = Field(description="the folder to write: images.npz and manifest.json, which proves it")
    num_test: PositiveCount = Field(50_000, description="test images, with the shares that the classes have in all")
    seed: Count = Field(42, description="draws the test images of each class")
    resize: bool = Field(
        False, description="bring other sizes to 28 x 28 (Lanczos); false: an image of another size is refused"
    )
    num_workers: PositiveCount | None = Field(None, description="decoding processes; null takes every core")

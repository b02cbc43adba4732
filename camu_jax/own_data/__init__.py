"""Data of your own: a `.npz` file, a folder of images, any image set of TFDS, a Hugging Face data set on disk.

mine = own_data.npz("mine.npz")
mine.train, mine.test, mine.classes
"""

from camu_jax.data import DataError
from camu_jax.own_data.checks import OwnData
from camu_jax.own_data.files import npz
from camu_jax.own_data.folders import folder
from camu_jax.own_data.hugging_face import hf
from camu_jax.own_data.of_tfds import tfds
from camu_jax.own_data.pictures import Progress

__all__ = ("DataError", "OwnData", "Progress", "folder", "hf", "npz", "tfds")

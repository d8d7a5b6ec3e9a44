"""Models: fresh ones by name, from a model library or from the user's own code, and weights from files nobody vouches for."""

from isthmus.models.build import MODELS, Architecture, build_model, require_logits
from isthmus.models.convolutional import cnn, lenet, vgg11, vgg11_bn, vgg16, vgg16_bn
from isthmus.models.own import import_object, names_object
from isthmus.models.perceptron import mlp
from isthmus.models.residual import preresnet, resnet18, resnet20
from isthmus.models.transformer import vit
from isthmus.models.weights import LoadReport, load_model, load_weights, read_state

__all__ = [
    "MODELS",
    "Architecture",
    "LoadReport",
    "build_model",
    "cnn",
    "import_object",
    "lenet",
    "load_model",
    "load_weights",
    "mlp",
    "names_object",
    "preresnet",
    "read_state",
    "require_logits",
    "resnet18",
    "resnet20",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
    "vit",
]

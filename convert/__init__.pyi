from . import export as export
from . import weights as weights

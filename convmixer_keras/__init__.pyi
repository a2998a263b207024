from . import data as data
from . import inference as inference
from . import recipes as recipes
from . import training as training
from .applications import ConvMixer256_8 as ConvMixer256_8
from .applications import ConvMixer256_8_P2 as ConvMixer256_8_P2
from .applications import ConvMixer512_16 as ConvMixer512_16
from .applications import ConvMixer768_32 as ConvMixer768_32
from .applications import ConvMixer1024_20 as ConvMixer1024_20
from .applications import ConvMixer1536_20 as ConvMixer1536_20
from .applications import ConvMixer1536_20_P14 as ConvMixer1536_20_P14
from .images import preprocessing as preprocessing
from .images.class_names import decode_predictions as decode_predictions
from .models import presets as presets
from .models import visualization as visualization
from .models.complexity import model_complexity as model_complexity
from .models.convmixer import ConvMixer as ConvMixer
from .models.features import features as features
from .models.saving import load_class_names as load_class_names
from .models.saving import save_model as save_model

__version__: str

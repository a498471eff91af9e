from .ensembles.ensemble import load_ensemble as load_ensemble
from .ensembles.ensemble import save_ensemble as save_ensemble
from .ensembles.one_sae import OneSAE as OneSAE
from .foundation.errors import UserError as UserError
from .foundation.settings.presets import preset_settings as preset_settings
from .foundation.settings.reading import load_settings as load_settings
from .foundation.settings.run_settings import RunSettings as RunSettings
from .notebook.ensemble import Ensemble as Ensemble
from .notebook.ensemble import load as load
from .notebook.evaluation import Evaluation as Evaluation
from .notebook.evaluation import evaluate as evaluate
from .notebook.feature import Feature as Feature
from .notebook.run import Run as Run
from .notebook.training import train as train
from .runs.pipeline import run_everything as run_everything
from .sae import SAE as SAE
from .sae import BatchTopKSAE as BatchTopKSAE
from .sae import JumpReLUSAE as JumpReLUSAE
from .sae import ReLUSAE as ReLUSAE
from .sae import TopKSAE as TopKSAE
from .sae import make_sae as make_sae

__version__: str

"""Training: the loop behind `ebrl fit`, its checkpoints, logs and data."""

from ebrl.training.checkpoints import checkpoints_in as checkpoints_in
from ebrl.training.checkpoints import load_average as load_average
from ebrl.training.checkpoints import newest_checkpoint as newest_checkpoint
from ebrl.training.checkpoints import write_checkpoint as write_checkpoint
from ebrl.training.data import Order as Order
from ebrl.training.data import check_fit as check_fit
from ebrl.training.data import take_rows as take_rows
from ebrl.training.log import TensorBoardLog as TensorBoardLog
from ebrl.training.loop import Schedule as Schedule
from ebrl.training.loop import Training as Training
from ebrl.training.loop import fit as fit
from ebrl.training.optimization import RunningClip as RunningClip
from ebrl.training.optimization import moving_average as moving_average
from ebrl.training.optimization import scale_learning_rate as scale_learning_rate
from ebrl.training.optimization import trainable_parameters as trainable_parameters
from ebrl.training.tables import TableError as TableError
from ebrl.training.tables import load_table as load_table
from ebrl.training.tables import two_moons as two_moons
from ebrl.training.watch import Alarm as Alarm
from ebrl.training.watch import DivergedError as DivergedError
from ebrl.training.watch import NonFiniteError as NonFiniteError

"""Training: the loop behind `ebrl fit`, its checkpoints, logs and data."""

from ebrl.training.checkpoints import checkpoints_in as checkpoints_in
from ebrl.training.checkpoints import load_average as load_average
from ebrl.training.checkpoints import newest_checkpoint as newest_checkpoint
from ebrl.training.checkpoints import write_checkpoint as write_checkpoint
from ebrl.training.log import Recorder as Recorder
from ebrl.training.loop import Order as Order
from ebrl.training.loop import RunningClip as RunningClip
from ebrl.training.loop import Training as Training
from ebrl.training.loop import averaged as averaged
from ebrl.training.loop import fit as fit
from ebrl.training.loop import pace as pace
from ebrl.training.loop import trained as trained
from ebrl.training.tables import TableError as TableError
from ebrl.training.tables import load_table as load_table
from ebrl.training.tables import two_moons as two_moons
from ebrl.training.watch import Alarm as Alarm
from ebrl.training.watch import DivergedError as DivergedError

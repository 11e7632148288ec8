"""Where x may be.

A kernel moves in free coordinates `u ∈ R^d` and knows no walls. A space maps them to its own,
`x = from_free(u)`, and gives the energy of u under which x follows `exp(-E(x)/T)` on the space.
"""

from ebrl.spaces.box import Box as Box
from ebrl.spaces.box import Walls as Walls
from ebrl.spaces.box import log_tanh_jacobian as log_tanh_jacobian
from ebrl.spaces.discrete import Binary as Binary
from ebrl.spaces.discrete import Categorical as Categorical
from ebrl.spaces.discrete import PairEnergy as PairEnergy
from ebrl.spaces.product import Product as Product
from ebrl.spaces.smooth import Affine as Affine
from ebrl.spaces.smooth import HalfLine as HalfLine
from ebrl.spaces.smooth import Simplex as Simplex
from ebrl.spaces.smooth import Torus as Torus
from ebrl.spaces.space import Coordinates as Coordinates
from ebrl.spaces.space import FreeEnergy as FreeEnergy
from ebrl.spaces.space import Space as Space
from ebrl.spaces.space import Unbounded as Unbounded
from ebrl.spaces.strings import PADDING as PADDING
from ebrl.spaces.strings import Strings as Strings
from ebrl.spaces.strings import string_lengths as string_lengths

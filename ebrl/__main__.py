"""`python -m ebrl` is the `ebrl` command; `torchrun -m ebrl` starts it in several processes."""

import sys

from ebrl.command import main

sys.exit(main())

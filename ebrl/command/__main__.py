"""`python -m ebrl.command` is the `ebrl` command."""

import sys

from ebrl.command import main

sys.exit(main())

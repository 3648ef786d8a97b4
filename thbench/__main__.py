"""``python -m thbench``, where the command is not on the path."""

import sys

from thbench.cli.parser import main

sys.exit(main())
